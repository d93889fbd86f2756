//! The background tasks and their I/O. Each writes the tables of one subject.

pub mod jwks;
