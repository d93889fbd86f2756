//! `jotgate status`: what a running gateway says about itself.

use std::io::Write;

use clap::Args;
use http::Method;

use super::admin_client::{AdminArgs, AdminClient};
use super::{Failure, Format, print};

#[derive(Debug, Args)]
#[command(
    after_help = "The token is read from JOTGATE_ADMIN_TOKEN unless a file is named.\n\n\
    Examples:\n  \
    jotgate status\n  \
    jotgate status --format json --admin http://127.0.0.1:9901"
)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// How the result is written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn status(args: StatusArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let client = AdminClient::new(&args.admin)?;
    let status = client.call(Method::GET, "/v1/status", None).await?;
    match args.format {
        Format::Text => print::lines(out, &status)?,
        Format::Json => print::json(out, &status)?,
    }
    Ok(())
}
