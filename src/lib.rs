//! gitmesh: one binary that turns machines into a mesh of git servers.

pub mod model;

pub mod git;
pub mod hook;

pub mod observe;
