//! `jotgate status`: what a running gateway says about itself.

use std::io::{self, Write};

use clap::Args;
use http::Method;
use serde_json::Value;

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
    let mut status = client.call(Method::GET, "/v1/status", None).await?;
    match args.format {
        Format::Text => {
            let fleet = status.get_mut("fleet").and_then(Value::as_object_mut);
            let members = fleet.and_then(|fleet| fleet.remove("members"));
            print::lines(out, &status)?;
            if let Some(Value::Array(members)) = members {
                writeln!(out)?;
                gateways(&members, out)?;
            }
        }
        Format::Json => print::json(out, &status)?,
    }
    Ok(())
}

/// The gateways of the fleet, one to a line.
fn gateways(members: &[Value], out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<Vec<String>> = members
        .iter()
        .map(|member| {
            let cell = |name: &str, unit: &str| match member.get(name) {
                None | Some(Value::Null) => "-".to_owned(),
                Some(value) => print::scalar(value) + unit,
            };
            vec![
                cell("name", ""),
                cell("state", ""),
                cell("lag_ms", "ms"),
                cell("age_s", "s"),
                cell("entries", ""),
                cell("version", ""),
            ]
        })
        .collect();
    let head = ["GATEWAY", "STATE", "LAG", "AGE", "RULES", "VERSION"];
    print::table(out, &head, &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_fleet_is_a_table() {
        let members = [
            json!({"name": "gw-a", "state": "in_sync", "lag_ms": 0, "age_s": 2, "entries": 7, "version": "0.1.0"}),
            json!({"name": "gw-b", "state": "silent", "lag_ms": null, "age_s": 65, "entries": 6, "version": "0.1.0"}),
        ];
        let mut out = vec![];
        gateways(&members, &mut out).expect("a Vec takes all");
        assert_eq!(
            String::from_utf8_lossy(&out),
            "GATEWAY  STATE    LAG  AGE  RULES  VERSION\n\
             gw-a     in_sync  0ms  2s   7      0.1.0\n\
             gw-b     silent   -    65s  6      0.1.0\n"
        );
    }
}
