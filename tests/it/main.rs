//! Scenarios: a gateway between an issuer and a service, and what each of them sees.

mod actors;
mod answers;
mod application;
mod curl;
mod failures;
mod floods;
mod forged_headers;
mod framing;
mod grpc;
mod http2;
mod identity_headers;
mod key_sets;
mod lifecycle;
mod limits;
mod properties;
mod proxying;
mod revocation;
mod routes;
mod slowloris;
mod streams;
mod support;
mod targets;
mod time;
mod token_places;
mod token_rules;
mod upstream_tls;
