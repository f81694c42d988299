//! gitmesh: one binary that turns machines into a mesh of git servers.

pub mod model;
pub mod observe;

pub mod git;
pub mod hook;
pub mod policy;

pub mod cluster;
pub mod peer;
pub mod repo;

pub mod admin;
