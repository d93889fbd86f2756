//! Host + path + method → route. The request's own host and path are parsed here, once, into types
//! that have one reading only.

mod host;
mod path;
mod pattern;
mod table;

#[cfg(any(test, fuzzing))]
pub(crate) use host::law as host_law;
pub use host::{Host, HostError};
#[cfg(any(test, fuzzing))]
pub(crate) use path::law as path_law;
pub use path::{NormalPath, PathError};
pub use pattern::{HostPattern, PathPattern, PatternError};
pub use table::{Ambiguous, Conflict, Entry, Found, RouteTable, conflicts};
