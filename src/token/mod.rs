//! Header bytes → verified claims: finds the token of a request, parses it strictly, and checks it
//! against the rules and keys of its issuer (RFC 7515, 7519, 8725, 9068).

mod claims;
mod extract;
mod rules;

pub use claims::{ClaimFault, ClaimPath, ClaimPathError, Claims};
pub use extract::Places;
pub use rules::{ClaimNames, Rules, Types};
