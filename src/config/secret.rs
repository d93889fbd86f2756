//! Secrets by reference: read from a variable or a file when the configuration is loaded, so that none stands in it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::base::secret::{ExposeSecret, Secret, secret};

/// Longest secret read, in bytes. An HMAC key or a bearer token is far below; a wrong file may be anything.
const SECRET_BYTES_MAX: usize = 64 * 1024;

/// Why a referenced secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretError {
    /// No such variable.
    #[error("the variable {0} is not set, or is not UTF-8")]
    NoVariable(String),
    /// The file cannot be read.
    #[error("the file {file} cannot be read: {source}")]
    File {
        /// As resolved.
        file: String,
        /// The system's word.
        source: io::Error,
    },
    /// More than [`SECRET_BYTES_MAX`].
    #[error("it is longer than {SECRET_BYTES_MAX} bytes; is this the right file?")]
    TooLong,
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
}

/// The value of the variable `name`.
pub(super) fn from_variable(env: &[(String, String)], name: &str) -> Result<Secret, SecretError> {
    let (_, value) = env
        .iter()
        .find(|(known, _)| known == name)
        .ok_or_else(|| SecretError::NoVariable(name.to_owned()))?;
    checked(secret(value.clone().into_bytes()))
}

/// The content of `file` without one newline at its end, which editors and `echo` leave behind.
pub(super) fn from_file(file: &Path) -> Result<Secret, SecretError> {
    let mut bytes = Vec::with_capacity(SECRET_BYTES_MAX + 1);
    let outcome = File::open(file).and_then(|open| {
        open.take(SECRET_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
    });
    if let Err(source) = outcome {
        return Err(SecretError::File {
            file: file.display().to_string(),
            source,
        });
    }
    if bytes.len() > SECRET_BYTES_MAX {
        return Err(SecretError::TooLong);
    }
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    checked(secret(bytes))
}

fn checked(secret: Secret) -> Result<Secret, SecretError> {
    if secret.expose_secret().is_empty() {
        return Err(SecretError::Empty);
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content: &[u8], expected: Option<&[u8]>) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        std::fs::write(&file, content).expect("a file");
        let secret = from_file(&file).ok();
        assert_eq!(
            secret
                .as_ref()
                .map(|secret| secret.expose_secret().as_slice()),
            expected
        );
    }

    #[test]
    fn one_newline_at_the_end_of_a_file_is_not_part_of_the_secret() {
        check(b"abc", Some(b"abc"));
        check(b"abc\n", Some(b"abc"));
        check(b"abc\r\n", Some(b"abc"));
        check(b"abc\n\n", Some(b"abc\n"));
        check(b" abc ", Some(b" abc "));
        check(b"", None);
        check(b"\n", None);
        let longest = vec![b'a'; SECRET_BYTES_MAX];
        check(&longest, Some(&longest));
        check(&vec![b'a'; SECRET_BYTES_MAX + 1], None);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let missing = from_variable(&[], "TOKEN").expect_err("no variable");
        assert!(missing.to_string().contains("TOKEN"));
        let missing = from_file(Path::new("/no/such/file")).expect_err("no file");
        assert!(missing.to_string().contains("/no/such/file"));
        let empty = from_variable(&[("TOKEN".to_owned(), String::new())], "TOKEN");
        assert!(matches!(empty, Err(SecretError::Empty)));
    }
}
