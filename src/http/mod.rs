//! HTTP words that front ends share.

pub mod client;
pub mod client_tls;
pub mod cors;
pub mod executor;
pub mod forwarded;
pub mod headers;
pub mod respond;
