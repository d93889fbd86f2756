//! Bytes out: connections to services, kept and used again.

mod options;

pub use options::{Options, Server};
