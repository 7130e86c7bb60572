//! What every backend must do, run against each.

use std::path::Path;

use super::{BackendError, LogBackend, Segments, SledBackend};

type Open = fn(&Path) -> Result<Box<dyn LogBackend>, BackendError>;

fn backends() -> [(&'static str, Open); 2] {
    [
        ("sled", |path| Ok(Box::new(SledBackend::open(path)?))),
        ("segments", |path| Ok(Box::new(Segments::open(path)?))),
    ]
}

/// Runs `case` on each backend with a way to open the same directory again.
fn check(case: impl Fn(&str, &dyn Fn() -> Box<dyn LogBackend>)) {
    for (name, open) in backends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        case(name, &|| open(&path).unwrap());
    }
}

fn value(index: u64, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| (index as usize * 31 + at) as u8)
        .collect()
}

fn records(range: std::ops::Range<u64>, bytes: usize) -> Vec<(u64, Vec<u8>)> {
    range.map(|index| (index, value(index, bytes))).collect()
}

#[test]
fn what_was_appended_is_there_after_reopening() {
    check(|name, open| {
        let mut log = open();
        assert_eq!(log.bounds().unwrap(), None, "{name}");
        log.append_batch(&records(0..10, 100)).unwrap();
        log.append_batch(&records(10..300, 700)).unwrap();
        drop(log);
        let log = open();
        assert_eq!(log.bounds().unwrap(), Some((0, 299)), "{name}");
        let mut expected = records(0..10, 100);
        expected.extend(records(10..300, 700));
        assert_eq!(
            log.read_range(0..1000, usize::MAX).unwrap(),
            expected,
            "{name}"
        );
        assert_eq!(
            log.read_range(5..7, usize::MAX).unwrap(),
            records(5..7, 100),
            "{name}"
        );
        assert_eq!(log.read_range(7..7, usize::MAX).unwrap(), [], "{name}");
        assert_eq!(log.read_range(400..500, usize::MAX).unwrap(), [], "{name}");
    });
}

#[test]
fn values_of_any_size_come_back_whole() {
    check(|name, open| {
        let sizes = [
            0,
            1,
            32 * 1024 - 1,
            32 * 1024,
            32 * 1024 + 1,
            1 << 20,
            9 << 20,
        ];
        let written: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(index, size)| (index as u64, value(3, *size)))
            .collect();
        let mut log = open();
        log.append_batch(&written).unwrap();
        drop(log);
        let mut log = open();
        assert!(
            log.read_range(0..100, usize::MAX).unwrap() == written,
            "{name}"
        );
        log.truncate_from(6).unwrap();
        log.purge_to(4).unwrap();
        drop(log);
        let log = open();
        assert_eq!(log.bounds().unwrap(), Some((5, 5)), "{name}");
        assert!(
            log.read_range(0..100, usize::MAX).unwrap() == written[5..6],
            "{name}"
        );
    });
}

#[test]
fn reading_stops_at_the_bound_but_brings_at_least_one() {
    check(|name, open| {
        let mut log = open();
        log.append_batch(&records(0..50, 1000)).unwrap();
        assert_eq!(log.read_range(0..50, 1).unwrap().len(), 1, "{name}");
        assert_eq!(log.read_range(0..50, 2500).unwrap().len(), 3, "{name}");
    });
}

#[test]
fn truncated_entries_stay_away_and_others_take_their_place() {
    check(|name, open| {
        let mut log = open();
        log.append_batch(&records(0..100, 50)).unwrap();
        log.truncate_from(60).unwrap();
        assert_eq!(log.bounds().unwrap(), Some((0, 59)), "{name}");
        drop(log);
        let mut log = open();
        assert_eq!(log.bounds().unwrap(), Some((0, 59)), "{name}");
        log.append_batch(&records(60..70, 9)).unwrap();
        drop(log);
        let mut log = open();
        assert_eq!(
            log.read_range(58..80, usize::MAX).unwrap()[2..],
            records(60..70, 9),
            "{name}"
        );
        log.truncate_from(0).unwrap();
        assert_eq!(log.bounds().unwrap(), None, "{name}");
        log.truncate_from(0).unwrap();
    });
}

#[test]
fn purged_entries_stay_away_also_when_everything_is_purged() {
    check(|name, open| {
        let mut log = open();
        log.append_batch(&records(0..3000, 20)).unwrap();
        log.purge_to(2499).unwrap();
        assert_eq!(log.bounds().unwrap(), Some((2500, 2999)), "{name}");
        drop(log);
        let mut log = open();
        assert_eq!(log.bounds().unwrap(), Some((2500, 2999)), "{name}");
        // A snapshot may be ahead of the log: the next entry is not the next index.
        log.purge_to(5000).unwrap();
        assert_eq!(log.bounds().unwrap(), None, "{name}");
        log.append_batch(&records(5001..5003, 20)).unwrap();
        drop(log);
        let log = open();
        assert_eq!(
            log.read_range(0..9000, usize::MAX).unwrap(),
            records(5001..5003, 20),
            "{name}"
        );
    });
}

#[test]
fn named_values_survive_everything_that_happens_to_the_log() {
    check(|name, open| {
        let mut log = open();
        assert_eq!(log.get_meta("vote").unwrap(), None, "{name}");
        log.put_meta("vote", b"one", true).unwrap();
        log.put_meta("purged", b"far", false).unwrap();
        let mut next = 0;
        for round in 0..8 {
            // Large enough that segment files are left behind.
            log.append_batch(&records(next..next + 40, 100_000))
                .unwrap();
            next += 40;
            log.truncate_from(next - 5).unwrap();
            next -= 5;
            log.purge_to(next - 10).unwrap();
            if round == 4 {
                log.put_meta("vote", b"two", true).unwrap();
            }
            drop(log);
            log = open();
            assert_eq!(log.bounds().unwrap(), Some((next - 9, next - 1)), "{name}");
        }
        assert_eq!(
            log.get_meta("vote").unwrap().as_deref(),
            Some(&b"two"[..]),
            "{name}"
        );
        assert_eq!(
            log.get_meta("purged").unwrap().as_deref(),
            Some(&b"far"[..]),
            "{name}"
        );
    });
}

/// The same random steps on both, compared with a plain map.
#[test]
fn both_backends_agree_with_a_model() {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    for seed in 0..6 {
        check(|name, open| {
            let mut random = StdRng::seed_from_u64(seed);
            let mut model = std::collections::BTreeMap::new();
            let mut next = 0;
            let mut log = open();
            for step in 0..60 {
                match random.random_range(0..10) {
                    0..=5 => {
                        let count = random.random_range(1..20);
                        let size = random.random_range(0..70_000);
                        let batch = records(next..next + count, size);
                        log.append_batch(&batch).unwrap();
                        model.extend(batch);
                        next += count;
                    }
                    6 if !model.is_empty() => {
                        let first = *model.keys().next().unwrap();
                        let from = random.random_range(first..next);
                        log.truncate_from(from).unwrap();
                        model.split_off(&from);
                        next = from;
                    }
                    7 if !model.is_empty() => {
                        let first = *model.keys().next().unwrap();
                        let to = random.random_range(first..next);
                        log.purge_to(to).unwrap();
                        model = model.split_off(&(to + 1));
                    }
                    8 => {
                        drop(log);
                        log = open();
                    }
                    _ => log
                        .put_meta("m", &step.to_string().into_bytes(), false)
                        .unwrap(),
                }
                let there: Vec<_> = model.clone().into_iter().collect();
                assert!(
                    log.read_range(0..u64::MAX, usize::MAX).unwrap() == there,
                    "{name}, seed {seed}, step {step}"
                );
            }
        });
    }
}

#[test]
fn a_torn_write_ends_the_segments_and_is_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut log = Segments::open(&path).unwrap();
    log.put_meta("vote", b"kept", true).unwrap();
    log.append_batch(&records(0..10, 100)).unwrap();
    drop(log);
    let file = std::fs::File::options()
        .write(true)
        .open(path.join("0000000000000000.seg"))
        .unwrap();
    file.set_len(file.metadata().unwrap().len() - 7).unwrap();
    let mut log = Segments::open(&path).unwrap();
    assert_eq!(log.bounds().unwrap(), Some((0, 8)));
    log.append_batch(&records(9..12, 100)).unwrap();
    drop(log);
    let log = Segments::open(&path).unwrap();
    assert_eq!(
        log.read_range(0..99, usize::MAX).unwrap(),
        records(0..12, 100)
    );
    assert_eq!(log.get_meta("vote").unwrap().unwrap(), b"kept");
}
