//! Writes a denylist log without the gateway: ten million records take seconds so, and minutes through the admin API. The
//! form is the one that the test `the_format_stays` of the log pins.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use jotgate::denylist::{Fingerprinter, Kind};

/// The salt of every log that is written here.
pub(crate) const SALT: [u8; 16] = [7; 16];

/// A log in the making.
pub(crate) struct LogFile {
    file: BufWriter<File>,
    fingerprinter: Fingerprinter,
    record: Vec<u8>,
}

/// Says beside a log that no bound of token lives has grown since, as the gateway's cure has it.
pub(crate) fn no_bounds(log: &Path) -> io::Result<()> {
    std::fs::write(log.with_extension("log.bounds"), "jotgate bounds none\n")
}

impl LogFile {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        no_bounds(path)?;
        let mut file = BufWriter::with_capacity(1024 * 1024, File::create(path)?);
        let mut header = b"jotgate denylist".to_vec();
        header.extend_from_slice(&3_u32.to_le_bytes());
        header.extend_from_slice(&SALT);
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        file.write_all(&header)?;
        Ok(Self {
            file,
            fingerprinter: Fingerprinter::new(&SALT),
            record: Vec::with_capacity(256),
        })
    }

    /// A rule on what was issued at or before `cutoff`, kept until `until`; a group of its own.
    pub(crate) fn rule(
        &mut self,
        kind: Kind,
        (issuer, value): (&str, &str),
        (cutoff, until): (u32, u32),
    ) -> io::Result<()> {
        /// Opens a group, has a part that ends by itself, has a value.
        const FLAGS: u8 = 1 | 2 | 8;
        let caller = "ops";
        let texts = [issuer, value, "", caller];
        let length = 56 + texts.iter().map(|text| text.len()).sum::<usize>();
        let number = |length: usize| u32::try_from(length).map_err(io::Error::other);
        let fingerprint = self.fingerprinter.of(kind, issuer, value);
        let record = &mut self.record;
        record.clear();
        record.extend_from_slice(&[0; 4]);
        record.extend_from_slice(&number(length)?.to_le_bytes());
        record.extend_from_slice(&[FLAGS, kind as u8, 0, 0]);
        record.extend_from_slice(&fingerprint.bits().to_le_bytes());
        record.extend_from_slice(&u64::from(cutoff).to_le_bytes());
        for part in [cutoff, until, 0] {
            record.extend_from_slice(&part.to_le_bytes());
        }
        for text in texts {
            let length = u16::try_from(text.len()).map_err(io::Error::other)?;
            record.extend_from_slice(&length.to_le_bytes());
        }
        for text in texts {
            record.extend_from_slice(text.as_bytes());
        }
        let sum = crc32c::crc32c(&record[4..]);
        record[..4].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all(record)
    }

    /// Puts it on the disk, so that what is measured next does not wait for it.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.file.flush()?;
        let file = self.file.get_ref();
        file.sync_all()?;
        Ok(file.metadata()?.len())
    }
}
