//! Bytes in: accepts connections and serves HTTP on them. Knows no JWT.

mod options;

pub use options::{Address, Options};
