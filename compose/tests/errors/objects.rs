//! Ports, mounts, networks, secrets and configs.

use super::{check, service};

#[test]
fn ports_and_volumes() {
    check(&[
        (
            service("ports: 80"),
            &["4:12 services.a.ports must be a list, found the number `80`"],
        ),
        (
            service("ports: ['80:80:80:80']"),
            &[
                "4:13 services.a.ports.0 Does not match format 'ports', found \"80:80:80:80\": invalid IP address: 80:80",
            ],
        ),
        (
            service("ports: ['x:80']"),
            &[
                "4:13 services.a.ports.0 Does not match format 'ports', found \"x:80\": invalid hostPort: x",
            ],
        ),
        (
            service("ports: [{published: 80}]"),
            &["4:13 services.a.ports.0 target is required"],
        ),
        (
            service("ports: [{target: 80, published: 8000-8010}]"),
            &["4:37 services.a.ports.0.published must be a integer, found a range"],
        ),
        (
            service("ports: [{target: 80, mode: hots}]"),
            &[
                "4:32 services.a.ports.0.mode must be one of the following: \"ingress\", \"host\", found \"hots\"",
            ],
        ),
        (
            service("ports: [{target: 80, protocol: icmp}]"),
            &[
                "4:36 services.a.ports.0.protocol must be one of the following: \"tcp\", \"udp\", \"sctp\", found \"icmp\"",
            ],
        ),
        (service("ports: ['10.0.0.5:80:80', '10.0.0.6:80:81']"), &[]),
        (
            service("ports: [{target: 80, host_ip: 10.0.0.500}]"),
            &["4:35 services.a.ports.0.host_ip: invalid IP address syntax, found \"10.0.0.500\""],
        ),
        (
            service("ports: [{target: 80, x-skep-source: both}]"),
            &[
                "4:41 services.a.ports.0.x-skep-source: invalid source `both`: must be client, snat, proxy-protocol or proxy-protocol-v1, found \"both\"",
            ],
        ),
        (
            service("ports: ['80:80', '80:81']"),
            &["4:22 service a: EndpointSpec: duplicate published ports provided"],
        ),
        (
            service("volumes: ['aa:bb:cc:dd']"),
            &["4:15 services.a.volumes.0 invalid spec: aa:bb:cc:dd: too many colons"],
        ),
        (
            service("volumes: ['data:/data']"),
            &["4:15 service a: undefined volume \"data\""],
        ),
        (
            service("volumes: [relative]"),
            &[
                "4:15 service a: invalid mount config for type \"volume\": invalid mount path: 'relative' mount path must be absolute",
            ],
        ),
        (
            service("volumes: [{target: /x}]"),
            &["4:15 services.a.volumes.0 type is required"],
        ),
        (
            service("volumes: [{type: bind, target: /x}]"),
            &["4:15 invalid mount config for type \"bind\": field Source must not be empty"],
        ),
        (
            service("volumes: [{type: vol, target: /x}]"),
            &[
                "4:22 services.a.volumes.0.type must be one of the following: \"bind\", \"volume\", \"tmpfs\", \"npipe\", \"cluster\", \"image\", found \"vol\"",
            ],
        ),
        (
            service("volumes: [{type: tmpfs, source: a, target: /x}]"),
            &["4:15 service a: invalid tmpfs source, source must be empty"],
        ),
        (
            service("volumes: [{type: tmpfs, target: /x, bind: {}}]"),
            &["4:15 service a: bind options are incompatible with type tmpfs"],
        ),
        (
            service("volumes: ['/a:/b', '/c:/b']"),
            &["4:24 service a: ContainerSpec: duplicate mount point: /b"],
        ),
        (
            service("volumes: ['/a:/b:z']"),
            &["warning 4:15 services.a.volumes.0 option `z` has no effect"],
        ),
    ]);
}

#[test]
fn secrets_and_configs_of_services() {
    check(&[
        (
            service("secrets: [nobody]"),
            &["4:15 service a: undefined secret \"nobody\""],
        ),
        (
            service("configs: [{target: /x}]"),
            &["4:15 services.a.configs.0 source is required"],
        ),
        (
            service("networks: [nobody]"),
            &["4:16 service a: undefined network \"nobody\""],
        ),
        (
            service("secrets: [{source: s, mode: 99}]") + "secrets: {s: {file: secret.txt}}\n",
            &[],
        ),
        (
            service("secrets: [{source: s, mode: 440}]") + "secrets: {s: {file: secret.txt}}\n",
            &["warning 4:33 services.a.secrets.0.mode is the decimal number 440"],
        ),
        (
            service("deploy: {resources: {reservations: {cpus: '0.0001'}}}"),
            &[
                "4:47 services.a.deploy.resources.reservations.cpus: invalid cpu value 0.0001: Must be at least 0.001",
            ],
        ),
        (
            service("secrets: [{source: s, mode: '0999'}]") + "secrets: {s: {file: secret.txt}}\n",
            &[
                "4:33 services.a.secrets.0.mode must be a number (permission bits, as 0440), found the string \"0999\"",
            ],
        ),
        (
            service("cap_add: [A, A]"),
            &["4:18 services.a.cap_add array items[0,1] must be unique"],
        ),
        (
            service("dns: [not-an-address]"),
            &["warning 4:11 the name server \"not-an-address\" has no effect: it is no IP address"],
        ),
    ]);
}

#[test]
fn networks_secrets_and_configs() {
    check(&[
        (
            "services:\n  a: {image: UPPER}\n".to_owned(),
            &[
                "2:14 invalid image reference for service a: invalid reference format: repository name must be lowercase",
            ],
        ),
        (
            "services:\n  a.b: {image: x}\n".to_owned(),
            &["2:3 service a.b: name must be valid as a DNS name component"],
        ),
        (
            service("") + "networks: {n: {}}\n",
            &["warning 5:12 networks.n is not made: no service uses it"],
        ),
        (
            service("networks: [n]") + "networks: {n: {driver: bridge}}\n",
            &["5:12 network n: network driver bridge does not span a cluster; use overlay"],
        ),
        (
            service("networks: [n]") + "networks: {n: {ipam: {config: [{subnet: 10.0.0.0}]}}}\n",
            &[
                "5:41 networks.n.ipam.config.0.subnet is no address range, found \"10.0.0.0\": want 10.1.0.0/16",
            ],
        ),
        (
            service("networks: [n]") + "networks: {n: {external: {name: o}, name: p}}\n",
            &[
                "5:27 network n: network.external.name and network.name conflict; only use network.name",
            ],
        ),
        (
            service("networks: [n]") + "networks: {n: {external: {name: o}}}\n",
            &[
                "warning 5:27 network n: network.external.name is deprecated in favor of network.name",
            ],
        ),
        (
            service("") + "volumes: {v: {external: true, driver: d}}\n",
            &["5:15 conflicting parameters \"external\" and \"driver\" specified for volume \"v\""],
        ),
        (
            service("") + "secrets: {s: {file: gone.txt}}\n",
            &["5:21 open /project/gone.txt: no such file or directory"],
        ),
        (
            service("") + "secrets: {s: {}}\n",
            &["5:11 secret s has no payload"],
        ),
        (
            service("") + "secrets: {s: {driver: d, file: f}}\n",
            &["5:32 secret s: secret.driver and secret.file conflict; only use secret.driver"],
        ),
        (
            service("") + "secrets: {s: {environment: NOBODY}}\n",
            &["5:28 secret s: the variable \"NOBODY\" is not set"],
        ),
        (
            service("") + "configs: {c: {content: ''}}\n",
            &["5:11 config c: config data must be larger than 0 and less than 1024000 bytes"],
        ),
        (
            service("") + "include: [gone.yml]\n",
            &["5:11 open /project/gone.yml: no such file or directory"],
        ),
    ]);
}
