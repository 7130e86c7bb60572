//! Logs that others keep, with real sockets and real containers.

mod common;

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use common::Container;
use skep_shim::StartError;
use skep_shim::config::{Address, LogDriver, RemoteConfig, SyslogFormat};

fn receiver(container: &Container) -> UnixDatagram {
    let socket = UnixDatagram::bind(container.path("keeper")).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket
}

fn receive(socket: &UnixDatagram) -> String {
    let mut bytes = vec![0; 64 << 10];
    let count = socket.recv(&mut bytes).unwrap();
    String::from_utf8(bytes[..count].to_vec()).unwrap()
}

#[test]
fn syslog_gets_every_line_to_the_last() {
    if common::cannot_run() {
        return;
    }
    let mut container = Container::shell("seq 1 3; echo wrong >&2; printf unfinished");
    let keeper = receiver(&container);
    container.config.log.remote = Some(RemoteConfig::Syslog {
        address: Address::Unix(container.path("keeper")),
        facility: 3,
        format: SyslogFormat::Rfc5424,
        tag: "box".into(),
        hostname: "host".into(),
    });
    assert_eq!(container.run().0, 0);
    let mut said: Vec<(String, String)> = (0..5)
        .map(|_| {
            let message = receive(&keeper);
            let (header, text) = message.split_once(" - ").unwrap();
            let priority = header.split('>').next().unwrap().to_owned();
            (priority, text.trim_end().to_owned())
        })
        .collect();
    said.sort();
    let expected = [
        ("<27", "wrong"),
        ("<30", "1"),
        ("<30", "2"),
        ("<30", "3"),
        ("<30", "unfinished"),
    ];
    assert_eq!(
        said,
        expected.map(|(priority, text)| (priority.to_owned(), text.to_owned()))
    );
    // The copy for `docker logs`.
    assert!(container.output().contains("unfinished"));
}

#[test]
fn a_slow_keeper_gets_the_rest_after_the_end() {
    if common::cannot_run() {
        return;
    }
    // More than a socket's buffer holds, less than may wait.
    let mut container = Container::shell("seq 1 2000");
    let keeper = receiver(&container);
    container.config.log.driver = LogDriver::None;
    container.config.log.remote = Some(RemoteConfig::Journal {
        socket: container.path("keeper"),
        fields: [("CONTAINER_NAME".to_owned(), "box".to_owned())].into(),
    });
    container.start();
    container.wait();
    for number in 1..=2000 {
        let message = receive(&keeper);
        assert!(
            message.starts_with(&format!("MESSAGE={number}\nPRIORITY=6\n")),
            "{message}"
        );
        assert!(message.ends_with("CONTAINER_NAME=box\n"));
    }
}

#[test]
fn without_a_keeper_there_is_no_start() {
    if common::cannot_run() {
        return;
    }
    let mut container = Container::shell("true");
    container.config.log.remote = Some(RemoteConfig::Journal {
        socket: container.path("nobody"),
        fields: Default::default(),
    });
    match container.try_start(&[]) {
        Err(StartError::Failed(failure)) => assert!(
            failure
                .message
                .starts_with("failed to initialize logging driver: journald is not enabled"),
            "{failure:?}"
        ),
        other => panic!("{other:?}"),
    }
}
