//! jotgate: a reverse-proxy authorization gateway. It checks the JSON Web Token of every request
//! against cached keys and a denylist, forwards the verified claims as headers, and answers the
//! rest with 401.
//!
//! A request walks one way: listener → proxy → authorize → proxy → upstream, and back out.
//! `ARCHITECTURE.md` shows the plan, and the floors that these modules stand on.

pub mod app;
pub mod authorize;
pub mod base;
pub mod cli;
pub mod config;
pub mod control;
pub mod denylist;
pub mod http;
pub mod identity;
pub mod jwks;
#[cfg(any(test, fuzzing))]
pub mod laws;
pub mod listener;
pub mod plan;
pub mod policy;
pub mod proxy;
pub mod route;
pub mod telemetry;
pub mod token;
pub mod upstream;
