//! Scenarios: a gateway between an issuer and a service, and what each of them sees.

mod actors;
mod answers;
mod application;
mod curl;
mod floods;
mod grpc;
mod http2;
mod identity_headers;
mod key_sets;
mod lifecycle;
mod properties;
mod proxying;
mod revocation;
mod routes;
mod streams;
mod support;
mod token_places;
mod token_rules;
