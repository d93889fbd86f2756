//! From what the file says (`raw`) to what the program believes (`settings`): one TOML file, the
//! environment over it, every fault at once with its line and its cure.

mod error;
mod load;
mod place;
mod raw;
mod secret;
pub mod settings;
mod validate;

pub use error::{Fault, Faults};
pub use load::{load, load_str};
pub use settings::Settings;
