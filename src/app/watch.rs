//! Notices that the configuration file has another content, and waits until it is still: an editor, or `kubectl`, may be in the
//! middle of writing it, and half of a file may be a file, with half of its protection. The path is read anew each time, so
//! that a file that was replaced and the symlinks that Kubernetes swaps under a `ConfigMap` are seen like any other change.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

/// How often the file is read. In the page cache it costs some microseconds.
const POLL: Duration = Duration::from_secs(1);

/// For how long a changed file must stay as it is. Whoever writes slower than this should write another file and rename it.
const STILL: Duration = Duration::from_secs(2);

/// The configuration file, as it was when it was last loaded, or tried.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    tried: Seen,
    /// Another one than that, and since when.
    news: Option<(Seen, Instant)>,
}

/// What a look at the file found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Content([u8; SHA256_OUTPUT_LEN]),
    /// A pipe, a device or a folder. A pipe can be read once, and that is for whoever loads it.
    NoFile,
    Unreadable(io::ErrorKind),
}

impl Watch {
    /// To be made before the file is loaded: a change in between is then noticed rather than missed.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            tried: look(path),
            news: None,
        }
    }

    /// Takes the file as it is now for known: it is about to be loaded for another reason.
    pub fn catch_up(&mut self) {
        self.tried = look(&self.path);
        self.news = None;
    }

    /// Returns when the file has another content than when it was last tried, and has been still for a while. What is there
    /// then counts as tried, whatever becomes of it. May be dropped at any point.
    pub async fn changed(&mut self) {
        loop {
            sleep(POLL).await;
            let path = self.path.clone();
            // It fails only when the runtime ends.
            if let Ok(seen) = spawn_blocking(move || look(&path)).await
                && self.note(seen, Instant::now())
            {
                return;
            }
        }
    }

    /// Whether what was seen is to be loaded.
    fn note(&mut self, seen: Seen, now: Instant) -> bool {
        if seen == self.tried {
            self.news = None;
            return false;
        }
        match self.news {
            Some((news, since)) if news == seen => {
                let is_still = now.duration_since(since) >= STILL;
                if is_still {
                    self.tried = seen;
                    self.news = None;
                }
                is_still
            }
            Some(_) | None => {
                self.news = Some((seen, now));
                false
            }
        }
    }
}

fn look(path: &Path) -> Seen {
    let content = std::fs::metadata(path).and_then(|metadata| {
        let content = metadata.is_file().then(|| std::fs::read(path));
        content.transpose()
    });
    match content {
        Ok(Some(content)) => {
            let hash = digest(&SHA256, &content);
            Seen::Content(hash.as_ref().try_into().expect("SHA-256 has its length"))
        }
        Ok(None) => Seen::NoFile,
        Err(error) => Seen::Unreadable(error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsRawFd as _;

    use super::*;

    /// A watch of a file that says `old`, and a hand on its clock.
    struct Scene {
        watch: Watch,
        folder: tempfile::TempDir,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("f");
            std::fs::write(&path, "old").unwrap();
            Self {
                watch: Watch::new(&path),
                folder,
                now: Instant::now(),
            }
        }

        fn write(&self, text: &str) {
            std::fs::write(self.folder.path().join("f"), text).unwrap();
        }

        /// What each of so many looks, a second apart, leads to.
        fn looks(&mut self, count: usize) -> Vec<bool> {
            let look = |_| {
                self.now += POLL;
                self.watch.note(look(&self.watch.path), self.now)
            };
            (0..count).map(look).collect()
        }
    }

    #[test]
    fn a_change_is_taken_once_when_it_is_still() {
        let mut scene = Scene::new();
        assert_eq!(scene.looks(4), [false; 4]);
        scene.write("new");
        assert_eq!(scene.looks(5), [false, false, true, false, false]);
    }

    #[test]
    fn a_file_in_pieces_is_taken_when_the_last_one_is_there() {
        let mut scene = Scene::new();
        for piece in ["n", "ne", "new"] {
            scene.write(piece);
            assert_eq!(scene.looks(2), [false; 2], "{piece}");
        }
        assert_eq!(scene.looks(1), [true]);
    }

    #[test]
    fn a_change_that_is_taken_back_is_none() {
        let mut scene = Scene::new();
        scene.write("new");
        assert_eq!(scene.looks(1), [false]);
        scene.write("old");
        assert_eq!(scene.looks(1), [false]);
        scene.write("new");
        assert_eq!(scene.looks(3), [false, false, true]);
    }

    #[test]
    fn a_file_that_is_gone_is_told_once_and_its_return_is_a_change() {
        let mut scene = Scene::new();
        std::fs::remove_file(&scene.watch.path).unwrap();
        assert_eq!(scene.looks(4), [false, false, true, false]);
        scene.write("old");
        assert_eq!(scene.looks(3), [false, false, true]);
    }

    #[test]
    fn what_is_loaded_for_another_reason_is_no_news() {
        let mut scene = Scene::new();
        scene.write("new");
        assert_eq!(scene.looks(1), [false]);
        scene.watch.catch_up();
        assert_eq!(scene.looks(4), [false; 4]);
    }

    #[test]
    fn a_pipe_is_left_for_who_loads_it() {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"workers = 1").unwrap();
        drop(writer);
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        assert_eq!(Watch::new(Path::new(&path)).tried, Seen::NoFile);
        let mut content = String::new();
        reader.read_to_string(&mut content).unwrap();
        assert_eq!(content, "workers = 1");
    }

    #[tokio::test(start_paused = true)]
    async fn symlinks_that_are_swapped_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("..data");
        for (name, text) in [("1", "old"), ("2", "new")] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("f"), text).unwrap();
        }
        std::os::unix::fs::symlink("1", &link).unwrap();
        std::os::unix::fs::symlink("..data/f", folder.path().join("f")).unwrap();
        let mut watch = Watch::new(&folder.path().join("f"));
        let swapped = folder.path().join("..data_tmp");
        std::os::unix::fs::symlink("2", &swapped).unwrap();
        std::fs::rename(&swapped, &link).unwrap();
        let began = Instant::now();
        watch.changed().await;
        assert!(
            (STILL..STILL * 2).contains(&began.elapsed()),
            "{:?}",
            began.elapsed()
        );
    }
}
