//! HTTP words that front ends share.

pub mod cors;
