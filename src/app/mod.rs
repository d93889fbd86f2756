//! Puts the program together, and takes it down.

mod build;
mod lifecycle;
mod report;
mod tokens;
mod work;

pub use lifecycle::{Gateway, StartError};
