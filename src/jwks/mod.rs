//! Key sets in memory: what a JSON Web Key Set says, which of its keys can be used, and the table
//! that requests read. Fetching is `control/jwks`.

mod algorithm;

pub use algorithm::{Algorithm, Family};
