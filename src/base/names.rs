//! Names that an operator gave: of issuers, routes and upstreams. Cheap to clone, safe as a metric
//! label because they come from the configuration and never from a request.

use std::fmt;
use std::sync::Arc;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as configured.
            #[must_use]
            pub fn new(name: &str) -> Self {
                Self(Arc::from(name))
            }

            /// The text, shared.
            #[must_use]
            pub fn to_shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// An issuer, as `issuers.name` says, else the host of its `issuer` URL.
    IssuerName
);
name!(
    /// A route, as `routes.name` says, else made from its host and path.
    RouteName
);
name!(
    /// An upstream, as `upstreams.name` says, else the URL of the route that made it.
    UpstreamName
);
