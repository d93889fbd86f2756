//! Scenarios: a gateway between an issuer and a service, and what each of them sees.

mod actors;
mod support;
