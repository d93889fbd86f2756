//! Claims → headers, and forged headers out.

mod mapping;
mod strip;

pub use mapping::{HeaderMap, HeaderMapping, MappingFault, OnUnmappable, map_claims};
