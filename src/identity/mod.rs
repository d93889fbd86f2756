//! Claims → headers, and forged headers out.

#[cfg(any(test, fuzzing))]
pub(crate) mod law;
mod mapping;
mod strip;

pub use mapping::{HeaderMap, HeaderMapping, MappingFault, OnUnmappable, map_claims};
pub use strip::{PROTECTED_NAME_BYTES_MAX, ProtectedNames};
