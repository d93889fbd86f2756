//! `jotgate health`: whether a running gateway is ready, as an exit code, for container health checks in images
//! without a shell.

use std::io::Write;

use clap::Args;
use http::Method;

use super::admin_client::{AdminClient, AdminUrl};
use super::{Failure, Verdict};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    jotgate health && echo ready\n  \
    HEALTHCHECK CMD [\"jotgate\", \"health\"]    in a Dockerfile")]
pub(super) struct HealthArgs {
    #[command(flatten)]
    admin: AdminUrl,
}

pub(super) async fn health(args: HealthArgs, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let answer = AdminClient::anonymous(&args.admin)?
        .send(Method::GET, "/ready", None)
        .await?;
    if answer.status.is_success() {
        writeln!(out, "ready")?;
        Ok(Verdict::Good)
    } else {
        writeln!(out, "not ready ({})", answer.status)?;
        Ok(Verdict::Bad)
    }
}
