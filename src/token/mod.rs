//! Header bytes → verified claims: finds the token of a request, parses it strictly, and checks it
//! against the rules and keys of its issuer (RFC 7515, 7519, 8725, 9068).

mod bounds;
mod cache;
mod claims;
mod extract;
mod parse;
mod reject;
mod rules;
mod verify;

pub use bounds::{Bound, EARLIER_MAX, Earlier, SETTLING, Step};
pub use cache::TokenCache;
pub use claims::{ClaimFault, ClaimPath, ClaimPathError, Claims};
pub use extract::{Found, Places, Spot, cookies_without, find, query_without};
#[cfg(any(test, fuzzing))]
pub(crate) use parse::law as parse_law;
pub use parse::{Parsed, parse};
pub use reject::Reject;
pub use rules::{ClaimNames, Rules, Types};
pub use verify::{Verdict, Verified, verify};
