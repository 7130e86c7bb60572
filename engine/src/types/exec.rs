//! Additional processes in a running container.

docker_json! {
    /// Body of `POST /containers/{id}/exec`.
    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct ExecConfig {
        pub user: String,
        pub privileged: bool,
        pub tty: bool,
        pub console_size: Option<(u32, u32)>,
        pub attach_stdin: bool,
        pub attach_stdout: bool,
        pub attach_stderr: bool,
        pub detach_keys: String,
        pub env: Vec<String>,
        pub working_dir: String,
        pub cmd: Vec<String>,
    }

    /// `GET /exec/{id}/json`.
    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct ExecInspect {
        #[serde(rename = "ID")]
        pub id: String,
        pub running: bool,
        /// `None` until it has ended.
        pub exit_code: Option<i64>,
        pub process_config: ExecProcess,
        pub open_stdin: bool,
        pub open_stderr: bool,
        pub open_stdout: bool,
        pub can_remove: bool,
        #[serde(rename = "ContainerID")]
        pub container_id: String,
        pub detach_keys: String,
        pub pid: i64,
    }

    #[derive(Eq)]
    pub struct ExecProcess {
        pub tty: bool,
        pub entrypoint: String,
        pub arguments: Vec<String>,
        pub privileged: bool,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub user: String,
    }
}
