//! Scenarios: a gateway between an issuer and a service, and what each of them sees.

mod actors;
mod answers;
mod identity_headers;
mod proxying;
mod routes;
mod support;
mod token_places;
mod token_rules;
