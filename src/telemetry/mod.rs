//! What an operator sees: logs, metrics, traces, and one access line for each request. Never a token.

pub mod access;
pub mod audit;
pub mod logs;
pub mod metrics;
pub mod panics;
pub mod trace;
