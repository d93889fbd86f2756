//! From what the file says (`raw`) to what the program believes (`settings`): one TOML file, the
//! environment over it, every fault at once with its line and its cure.

pub mod settings;

pub use settings::Settings;
