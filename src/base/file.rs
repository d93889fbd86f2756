//! Files that somebody else writes: read as far as they may be long.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Room that is made at once, in bytes: secrets are smaller, and one that grows while it is read would leave copies of itself
/// behind.
const ROOM_BYTES: usize = 16 * 1024;

/// The whole file, if it has at most `limit` bytes.
pub fn read_bounded(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let most = u64::try_from(limit).unwrap_or(u64::MAX);
    let mut content = Vec::with_capacity(ROOM_BYTES);
    File::open(path)?
        .take(most.saturating_add(1))
        .read_to_end(&mut content)?;
    if content.len() > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_bounded(&path, 5).unwrap(), b"12345");
        let error = read_bounded(&path, 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
