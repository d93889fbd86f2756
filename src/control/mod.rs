//! The background tasks and their I/O: what writes the tables that requests read, and what operators talk to.

pub mod admin;
pub mod certificates;
pub mod denylist;
pub mod health;
pub mod jwks;
pub mod names;
pub mod traces;
