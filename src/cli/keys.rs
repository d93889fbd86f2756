//! `jotgate keys generate`: a private key that only its owner can read, and the public key set for the gateway.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::Failure;
use super::signing::{self, RsaBits};
use crate::base::secret::ExposeSecret;
use crate::jwks::{Algorithm, Family};

#[derive(Debug, Args)]
#[command(
    after_help = "Writes private.pem (only you can read it) and jwks.json (public) for asymmetric algorithms, \
    and the file secret for HS256, HS384 and HS512. Nothing is overwritten unless --force says so.\n\n\
    Examples:\n  \
    jotgate keys generate --alg ES256 --out keys\n  \
    jotgate keys generate --alg RS256 --bits 4096 --kid 2026-11 --out keys"
)]
pub(super) struct GenerateArgs {
    /// What the key signs
    #[arg(long, value_name = "ALG", value_parser = algorithm_parser())]
    alg: Algorithm,
    /// Length of an RSA key
    #[arg(long, value_enum, default_value_t)]
    bits: RsaBits,
    /// The key's name. Default: its thumbprint (RFC 7638); random for a secret
    #[arg(long)]
    kid: Option<String>,
    /// The folder for the files; made when it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Overwrite existing files
    #[arg(long)]
    force: bool,
}

/// Accepts the algorithms that the gateway verifies, and lists them in the help.
pub(super) fn algorithm_parser() -> impl TypedValueParser<Value = Algorithm> {
    PossibleValuesParser::new(Algorithm::ALL.map(Algorithm::name))
        .map(|name| Algorithm::parse(&name).expect("each possible value is an algorithm's name"))
}

/// Why the files cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyFileError {
    #[error("{path} is there already; write --force to replace it, or choose another --out", path = path.display())]
    Exists { path: PathBuf },
    #[error("cannot write {path}: {source}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
}

pub(super) fn generate(args: &GenerateArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let is_secret = args.alg.family() == Family::Hmac;
    let private = args
        .out
        .join(if is_secret { "secret" } else { "private.pem" });
    let public = args.out.join("jwks.json");
    if !args.force {
        // Both before either: half a pair helps nobody.
        for path in [&private, &public] {
            if path.symlink_metadata().is_ok() && !(is_secret && path == &public) {
                return Err(KeyFileError::Exists { path: path.clone() }.into());
            }
        }
    }
    let made = signing::generate(args.alg, args.bits, args.kid.clone())?;
    fs::create_dir_all(&args.out).map_err(|source| KeyFileError::Write {
        path: args.out.clone(),
        source,
    })?;
    write_new(&private, made.file.expose_secret(), 0o600, args.force)?;
    writeln!(out, "{}  private: keep it", private.display())?;
    let source = if let Some(jwks) = made.key.public_jwks()? {
        let text = format!("{jwks:#}\n");
        write_new(&public, text.as_bytes(), 0o644, args.force)?;
        writeln!(out, "{}  public", public.display())?;
        format!("jwks_file = {:?}", public.display().to_string())
    } else {
        format!("secret = {{ file = {:?} }}", private.display().to_string())
    };
    if let Some(kid) = made.key.kid() {
        writeln!(out, "kid {kid}")?;
    }
    writeln!(
        out,
        "\nIn the gateway's configuration:\n\n  \
         [[issuers]]\n  issuer = \"https://id.example.com\"\n  audiences = [\"my-api\"]\n  \
         algorithms = [\"{}\"]\n  {source}",
        args.alg
    )?;
    Ok(())
}

/// Makes the file with its mode from the first byte on. What is replaced is removed first: writing into an existing
/// file would keep its mode and follow its links.
fn write_new(path: &Path, content: &[u8], mode: u32, force: bool) -> Result<(), KeyFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists {
            path: path.to_owned(),
        },
        _ => KeyFileError::Write {
            path: path.to_owned(),
            source,
        },
    };
    if force && path.symlink_metadata().is_ok() {
        fs::remove_file(path).map_err(failed)?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    file.sync_all().map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: GenerateArgs,
    }

    fn run(folder: &Path, options: &[&str]) -> Result<String, Failure> {
        let folder = folder.to_str().expect("UTF-8");
        let line = ["generate", "--out", folder]
            .into_iter()
            .chain(options.iter().copied());
        let args = Line::try_parse_from(line).expect("good arguments").args;
        let mut out = vec![];
        generate(&args, &mut out).map(|()| String::from_utf8(out).expect("UTF-8"))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("a file").permissions().mode() & 0o777
    }

    #[test]
    fn only_the_owner_reads_the_private_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = folder.path().join("a/b");
        let said = run(&keys, &["--alg", "ES256"]).expect("made");
        assert_eq!(mode(&keys.join("private.pem")), 0o600);
        let jwks = fs::read(keys.join("jwks.json")).expect("a file");
        let jwks: Value = serde_json::from_slice(&jwks).expect("JSON");
        assert_eq!(jwks["keys"][0]["alg"], "ES256");
        assert!(jwks["keys"][0].get("d").is_none());
        let kid = jwks["keys"][0]["kid"].as_str().expect("a name");
        assert!(said.contains(kid) && said.contains("jwks_file"), "{said}");
    }

    #[test]
    fn nothing_is_overwritten_without_force() {
        let folder = tempfile::tempdir().expect("a folder");
        let private = folder.path().join("private.pem");
        fs::write(&private, "precious").expect("written");
        let refused = run(folder.path(), &["--alg", "EdDSA"]).expect_err("refused");
        assert!(matches!(
            refused,
            Failure::KeyFile(KeyFileError::Exists { .. })
        ));
        assert_eq!(fs::read(&private).expect("a file"), b"precious");
        assert!(
            !folder.path().join("jwks.json").exists(),
            "nothing was begun"
        );

        run(folder.path(), &["--alg", "EdDSA", "--force"]).expect("made");
        assert_eq!(mode(&private), 0o600, "not the mode of the old file");

        fs::remove_file(&private).expect("removed");
        let refused = run(folder.path(), &["--alg", "EdDSA"]).expect_err("refused");
        assert!(matches!(
            refused,
            Failure::KeyFile(KeyFileError::Exists { .. })
        ));
        assert!(!private.exists(), "half a pair helps nobody");
    }

    #[test]
    fn a_secret_comes_without_a_key_set() {
        let folder = tempfile::tempdir().expect("a folder");
        let said = run(folder.path(), &["--alg", "HS256", "--kid", "k1"]).expect("made");
        assert_eq!(mode(&folder.path().join("secret")), 0o600);
        assert!(!folder.path().join("jwks.json").exists());
        assert!(
            said.contains("kid k1") && said.contains("secret = { file ="),
            "{said}"
        );
    }
}
