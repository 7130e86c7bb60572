//! An image that is nowhere.

use std::time::Duration;

use serde_json::Value;
use skep_e2e::wait::holds;
use skep_e2e::{Cluster, eventually, secs};

use crate::{MANAGER, NOWHERE};

pub fn image_nowhere(c: &Cluster) {
    let line = |name: &str| format!("service create -d --name {name} {NOWHERE}");
    let docker = c.docker(MANAGER, &line("lost"));
    assert_eq!(docker.status, 0, "{docker}");
    let warning =
        "image 127.0.0.1:1/none:latest could not be accessed on a registry to record\nits digest.";
    assert!(docker.err.contains(warning), "{docker}");
    let reason = "No such image: 127.0.0.1:1/none:latest";
    let tasks = eventually("three tasks in turn are rejected", secs(30), || {
        let tasks = c.try_tasks(MANAGER, "lost")?;
        let rejected = tasks.iter().filter(|task| task.state == "rejected").count();
        holds(rejected >= 3, skep_e2e::tasks::shown(&tasks))?;
        Ok::<_, String>(tasks)
    });
    assert!(
        tasks
            .iter()
            .filter(|task| task.state == "rejected")
            .all(|task| task.error.contains(reason)),
        "{tasks:?}"
    );
    for shown in [
        c.docker(MANAGER, "service ps --no-trunc lost").ok(),
        c.skep(MANAGER, "service ps --no-trunc lost").ok(),
    ] {
        assert!(
            shown.contains("Rejected ") && shown.contains(reason),
            "{shown}"
        );
    }
    assert!(
        c.docker(MANAGER, "service ls --filter name=lost")
            .ok()
            .contains("0/1")
    );
    // A replacement looks for the image at once, while it waits for its turn; the one after that is
    // made when the delay of five seconds is over.
    let all = c.get(MANAGER, "/tasks");
    let id = c.get(MANAGER, "/services/lost")["ID"].clone();
    let of_lost = |task: &&Value| task["ServiceID"] == id && task["Status"]["State"] == "rejected";
    let lost = all.as_array().expect("a list").iter().filter(of_lost);
    let mut ends: Vec<Duration> = lost
        .map(|task| moment(task["Status"]["Timestamp"].as_str().expect("a time")))
        .collect();
    ends.sort();
    for window in ends.windows(3) {
        let apart = window[2].saturating_sub(window[0]);
        assert!(
            apart > Duration::from_millis(4500),
            "three attempts in {apart:?}: {ends:?}"
        );
    }
    let ours = c.skep(MANAGER, &line("gone"));
    assert!(ours.status == 0 && ours.err.contains(warning), "{ours}");
    c.remove_service(MANAGER, "lost");
    c.remove_service(MANAGER, "gone");
}

/// A time of the API, within its day.
fn moment(text: &str) -> Duration {
    let clock = text
        .split('T')
        .nth(1)
        .and_then(|clock| clock.strip_suffix('Z'))
        .unwrap_or_else(|| panic!("{text}"));
    let parts: Vec<f64> = clock.split(':').map(|part| part.parse().unwrap()).collect();
    Duration::from_secs_f64(parts[0] * 3600.0 + parts[1] * 60.0 + parts[2])
}
