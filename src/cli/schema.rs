//! `jotgate schema`: the JSON Schema of the configuration, for editors.

use std::io::Write;

use clap::Args;

use super::Failure;
use crate::config;

#[derive(Clone, Copy, Debug, Args)]
#[command(
    after_help = "An editor with a TOML plug-in that knows `#:schema` (taplo, Even Better TOML for VS Code) completes keys, explains \
    them and underlines what is wrong, when this is the first line of the configuration:\n  \
    #:schema ./jotgate.schema.json\n\n\
    What keys mean together, and their bounds, are said by `jotgate check` alone.\n\n\
    Examples:\n  \
    jotgate schema > jotgate.schema.json"
)]
pub(super) struct SchemaArgs {}

pub(super) fn schema(_: SchemaArgs, out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "{:#}", config::schema())?;
    Ok(())
}
