//! What fuzzers feed, and what must hold whatever they feed. The suite feeds the
//! inputs in `fuzz/corpus`.

use serde::Serialize;
use serde::de::DeserializeOwned;
use skep_engine::types::{ContainerConfig, ExecConfig, NetworkCreate, UpdateConfig, VolumeCreate};
use skep_model::validate::{check_config, check_secret, check_service};
use skep_model::{ClusterSpec, ConfigSpec, SecretSpec, ServiceSpec, StackSpec};

use crate::query::Query;
use crate::state::from_json;

/// The body of a request, or its query: the first byte says whose.
pub fn request(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else {
        return;
    };
    match kind {
        b'c' => {
            if let Ok(config) = read::<ContainerConfig>(body) {
                #[cfg(feature = "fuzz")]
                skep_engine::fuzz::container(&config);
                #[cfg(not(feature = "fuzz"))]
                drop(config);
            }
        }
        b'e' => drop(read::<ExecConfig>(body)),
        b'n' => drop(read::<NetworkCreate>(body)),
        b'u' => drop(read::<UpdateConfig>(body)),
        b'v' => drop(read::<VolumeCreate>(body)),
        b's' => {
            if let Some(spec) = and_back::<ServiceSpec>(body) {
                let _ = check_service(&spec);
            }
        }
        b'w' => drop(and_back::<ClusterSpec>(body)),
        b't' => drop(and_back::<StackSpec>(body)),
        b'k' => drop(and_back::<SecretSpec>(body).map(|spec| check_secret(&spec))),
        b'o' => drop(and_back::<ConfigSpec>(body).map(|spec| check_config(&spec))),
        b'q' => {
            if let Ok(text) = std::str::from_utf8(body) {
                let query = Query::parse(text);
                let _ = (query.flag("all"), query.all("tag"));
                if let Ok(filters) = skep_engine::Filters::parse(query.text("filters")) {
                    let _ = filters.accept(&["label", "name"]);
                }
            }
        }
        _ => {}
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ()> {
    from_json(body).map_err(drop)
}

/// What was read is written, and read again as the same.
fn and_back<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(
    body: &[u8],
) -> Option<T> {
    let value = read::<T>(body).ok()?;
    let text = serde_json::to_vec(&value).expect("what was read is written");
    let again: T = serde_json::from_slice(&text).expect("and read again");
    assert_eq!(value, again);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_the_corpus_are_read_or_refused() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/requests");
        let mut count = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            request(&std::fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 5, "there are only {count} inputs");
    }
}
