//! Claims → headers, and forged headers out.

mod mapping;
mod strip;

pub use mapping::{HeaderMap, HeaderMapping, MappingFault, OnUnmappable, map_claims};
pub use strip::{PROTECTED_NAME_BYTES_MAX, ProtectedNames};
