//! CDI: devices that a vendor describes in files, and what a container gets with each
//! (<https://tags.cncf.io/container-device-interface>, versions 0.3 to 1.1).
//!
//! The files are read anew at each start, so that what a vendor changes counts at once.

mod inject;
mod name;
mod spec;
mod yaml;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use inject::inject;
use name::QualifiedName;
use spec::{Device, Edits, Spec};

/// Most files of one directory, and bytes of one file, that are read.
const FILES_MAX: usize = 1024;
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A device and the file it stands in.
#[derive(Debug, Clone)]
struct Found {
    spec: Arc<Spec>,
    index: usize,
}

impl Found {
    fn device(&self) -> &Device {
        &self.spec.devices[self.index]
    }
}

/// All devices of some directories.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    by_name: BTreeMap<QualifiedName, Found>,
    /// What is wrong, and with which file.
    pub(crate) complaints: Vec<String>,
}

impl Devices {
    /// Reads the directories, of which a later one overrides an earlier one. One that does
    /// not exist has no devices.
    pub(crate) fn read(directories: &[PathBuf]) -> Self {
        let mut all = Self::default();
        for directory in directories {
            all.read_directory(directory);
        }
        all
    }

    /// Their qualified names, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.by_name.keys().map(ToString::to_string).collect()
    }

    fn read_directory(&mut self, directory: &Path) {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.complain(directory, &error),
        };
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.extension()
                    .is_some_and(|end| end == "json" || end == "yaml")
            })
            .collect();
        files.sort();
        if files.len() > FILES_MAX {
            self.complain(
                directory,
                &format!("more than {FILES_MAX} files, the rest is left out"),
            );
            files.truncate(FILES_MAX);
        }
        let mut own: BTreeMap<QualifiedName, Option<Found>> = BTreeMap::new();
        for file in files {
            match read_file(&file) {
                Ok(spec) => self.take(&file, Arc::new(spec), &mut own),
                Err(why) => self.complain(&file, &why),
            }
        }
        for (name, found) in own {
            match found {
                Some(found) => self.by_name.insert(name, found),
                // Nobody can say which one is meant.
                None => self.by_name.remove(&name),
            };
        }
    }

    fn take(
        &mut self,
        file: &Path,
        spec: Arc<Spec>,
        own: &mut BTreeMap<QualifiedName, Option<Found>>,
    ) {
        for (index, device) in spec.devices.iter().enumerate() {
            let name = spec.name_of(device);
            match own.entry(name.clone()) {
                Entry::Vacant(place) => {
                    let spec = Arc::clone(&spec);
                    place.insert(Some(Found { spec, index }));
                }
                Entry::Occupied(mut place) => {
                    place.insert(None);
                    let why = format!("conflicting device {name}: another file has it too");
                    self.complain(file, &why);
                }
            }
        }
    }

    fn complain(&mut self, path: &Path, why: &dyn std::fmt::Display) {
        self.complaints.push(format!("{}: {why}", path.display()));
    }

    /// What these devices bring, in order: of each file its own edits once, then those of
    /// the device. The error names the devices that do not exist.
    fn edits(&self, wanted: &[String]) -> Result<Vec<&Edits>, String> {
        let mut edits = Vec::new();
        let mut specs: Vec<&Arc<Spec>> = Vec::new();
        let mut missing = Vec::new();
        for text in wanted {
            let found = text
                .parse::<QualifiedName>()
                .ok()
                .and_then(|name| self.by_name.get(&name));
            let Some(found) = found else {
                missing.push(text.as_str());
                continue;
            };
            if !specs.iter().any(|spec| Arc::ptr_eq(spec, &found.spec)) {
                specs.push(&found.spec);
                edits.push(&found.spec.container_edits);
            }
            edits.push(&found.device().container_edits);
        }
        match missing[..] {
            [] => Ok(edits),
            _ => Err(format!("unresolvable CDI devices {}", missing.join(", "))),
        }
    }
}

/// The text of a plain file, at most one byte more than one may have.
fn read_text(path: &Path) -> io::Result<String> {
    // Not waiting for who may write into what is no file.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    Ok(text)
}

fn read_file(path: &Path) -> Result<Spec, String> {
    let text = read_text(path).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("larger than {FILE_BYTES_MAX} bytes"));
    }
    let spec: Spec = if path.extension().is_some_and(|end| end == "json") {
        serde_json::from_str(&text).map_err(|error| error.to_string())?
    } else {
        yaml::parse(&text)
            .and_then(|value| serde_json::from_value(value).map_err(|error| error.to_string()))?
    };
    spec.check()?;
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: &str = r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/gpu",
        "containerEdits": {"env": ["ALL=1"]},
        "devices": [
            {"name": "0", "containerEdits": {"env": ["GPU=0"]}},
            {"name": "1", "containerEdits": {"env": ["GPU=1"]}}]}"#;

    fn directories(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let base = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = base.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let directories = ["a", "b", "missing"].map(|name| base.path().join(name));
        (base, directories.to_vec())
    }

    #[test]
    fn devices_of_both_forms_are_found() {
        let yaml = "cdiVersion: 0.5.0\nkind: vendor.com/net\ndevices:\n- name: eth\n  containerEdits:\n    deviceNodes:\n    - path: /dev/null\n      permissions: rw\n      fileMode: 0660\n";
        let (_base, directories) = directories(&[
            ("a/gpu.json", GPU),
            ("a/net.yaml", yaml),
            ("a/notes.txt", "?"),
        ]);
        let devices = Devices::read(&directories);
        assert_eq!(devices.complaints, Vec::<String>::new());
        assert_eq!(
            devices.names(),
            ["vendor.com/gpu=0", "vendor.com/gpu=1", "vendor.com/net=eth"]
        );
        let wanted = ["vendor.com/gpu=1".into(), "vendor.com/gpu=0".into()];
        let env: Vec<&str> = devices
            .edits(&wanted)
            .unwrap()
            .iter()
            .flat_map(|edits| edits.env.iter().map(String::as_str))
            .collect();
        assert_eq!(env, ["ALL=1", "GPU=1", "GPU=0"]);
    }

    #[test]
    fn what_does_not_exist_is_named() {
        let (_base, directories) = directories(&[("a/gpu.json", GPU)]);
        let wanted = ["vendor.com/gpu=7", "nonsense", "vendor.com/gpu=0"].map(String::from);
        assert_eq!(
            Devices::read(&directories).edits(&wanted).unwrap_err(),
            "unresolvable CDI devices vendor.com/gpu=7, nonsense"
        );
    }

    #[test]
    fn later_directories_override_and_equals_conflict() {
        let other = GPU.replace("GPU=0", "OTHER=0");
        let (_base, directories) = directories(&[("a/gpu.json", GPU), ("b/gpu.json", &other)]);
        let devices = Devices::read(&directories);
        let edits = devices.edits(&["vendor.com/gpu=0".into()]).unwrap();
        assert_eq!(edits[1].env, ["OTHER=0"]);

        let (_base, directories) = self::directories(&[("a/1.json", GPU), ("a/2.json", &other)]);
        let devices = Devices::read(&directories);
        assert!(devices.names().is_empty());
        assert!(devices.complaints[0].contains("conflicting device vendor.com/gpu=0"));
    }

    #[test]
    fn a_wrong_file_is_left_out_and_said_so() {
        for (text, why) in [
            ("{", "EOF"),
            (
                r#"{"cdiVersion":"9.0.0","kind":"v.com/c","devices":[]}"#,
                "invalid version \"9.0.0\"",
            ),
            (
                r#"{"cdiVersion":"0.6.0","kind":"nothing","devices":[]}"#,
                "unqualified kind",
            ),
            (
                r#"{"cdiVersion":"0.6.0","kind":"v.com/c","devices":[]}"#,
                "no devices",
            ),
            (
                r#"{"cdiVersion":"0.6.0","kind":"v.com/c","devices":[{"name":"a","containerEdits":{}}]}"#,
                "empty device edits",
            ),
            (
                r#"{"cdiVersion":"0.6.0","kind":"v.com/c","devices":[{"name":"a","containerEdits":{"env":["A"]}}]}"#,
                "invalid environment variable \"A\"",
            ),
        ] {
            let (_base, directories) = directories(&[("a/x.json", text), ("a/gpu.json", GPU)]);
            let devices = Devices::read(&directories);
            assert_eq!(devices.names().len(), 2, "{text}");
            assert!(
                devices.complaints[0].contains(why),
                "{:?}",
                devices.complaints
            );
        }
    }
}
