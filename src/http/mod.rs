//! HTTP words that front ends share.

pub mod client;
pub mod cors;
