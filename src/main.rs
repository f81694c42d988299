//! The program; its rooms are being built.

fn main() {}
