//! Which system calls a container may make: docker's profile, or one in its form,
//! lowered to a filter program.
//!
//! Nothing here is kept in memory between uses: the tables of numbers and the
//! default profile are text, read in the process that installs the filter.

pub mod bpf;
mod profile;

use std::collections::BTreeMap;
use std::io;

use self::bpf::{Comparison, Instruction, Operator, Rule, Section, Verdict};
use self::profile::{Argument, CallRule, Filter, Profile};

/// Docker's default profile.
const DEFAULT: &str = include_str!("default.json");

/// An architecture this kernel may run programs of.
struct Architecture {
    /// In `architectures` of a profile.
    name: &'static str,
    /// In `includes` and `excludes` of a rule.
    short: &'static str,
    audit: u32,
    /// Lines of name and number.
    table: &'static str,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [Architecture; 2] = [
    Architecture {
        name: "SCMP_ARCH_X86_64",
        short: "amd64",
        audit: 0xc000_003e,
        table: include_str!("syscalls/x86_64.txt"),
    },
    Architecture {
        name: "SCMP_ARCH_X86",
        short: "x86",
        audit: 0x4000_0003,
        table: include_str!("syscalls/i386.txt"),
    },
];

#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [Architecture; 1] = [Architecture {
    name: "SCMP_ARCH_AARCH64",
    short: "arm64",
    audit: 0xc000_00b7,
    table: include_str!("syscalls/generic.txt"),
}];

#[cfg(target_arch = "riscv64")]
const ARCHITECTURES: [Architecture; 1] = [Architecture {
    name: "SCMP_ARCH_RISCV64",
    short: "riscv64",
    audit: 0xc000_00f3,
    table: include_str!("syscalls/generic.txt"),
}];

/// What a profile's conditions are held against.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Capabilities of the process, with their `CAP_` prefix.
    pub capabilities: &'a [String],
    /// Major and minor version of the running kernel.
    pub kernel: (u32, u32),
}

/// A profile that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    #[error("decoding seccomp profile failed: {0}")]
    Json(String),
    #[error("seccomp: unknown action `{0}`")]
    Action(String),
    #[error("seccomp: unknown operator `{0}`")]
    Operator(String),
    #[error("seccomp: argument index {0} is not 0 to 5")]
    Index(u8),
    #[error("seccomp: rule for `{0}` has more than six conditions")]
    TooManyConditions(String),
    #[error("seccomp: the profile makes a filter of {0} instructions, more than the kernel takes")]
    TooLong(usize),
    #[error("seccomp: invalid kernel version `{0}`")]
    Kernel(String),
    #[error("seccomp: listenerPath is not supported")]
    Listener,
}

/// The filter for docker's default profile.
///
/// # Errors
/// None in practice: the profile is part of the program.
pub fn default_filter(context: Context<'_>) -> Result<Vec<Instruction>, ProfileError> {
    filter(DEFAULT, context)
}

/// The filter for a profile in docker's JSON form.
///
/// # Errors
/// See [`ProfileError`]. Names of calls this architecture does not have are
/// skipped, as docker does.
pub fn filter(json: &str, context: Context<'_>) -> Result<Vec<Instruction>, ProfileError> {
    let profile: Profile =
        serde_json::from_str(json).map_err(|error| ProfileError::Json(error.to_string()))?;
    if !profile.listener_path.is_empty() {
        return Err(ProfileError::Listener);
    }
    let default = verdict(&profile.default_action, profile.default_errno_ret)?;
    let mut rules = Vec::new();
    for rule in &profile.syscalls {
        if applies(rule, context)? {
            rules.push((rule, lower(rule)?));
        }
    }
    let wanted = wanted_architectures(&profile);
    let sections: Vec<Section> = ARCHITECTURES
        .iter()
        .filter(|architecture| wanted.is_empty() || wanted.contains(&architecture.name))
        .map(|architecture| section(architecture, &rules, default))
        .collect();
    let program = bpf::assemble(&sections);
    if program.len() > bpf::INSTRUCTIONS_MAX {
        return Err(ProfileError::TooLong(program.len()));
    }
    Ok(program)
}

/// Names of the architectures a profile is for; none stands for all.
fn wanted_architectures(profile: &Profile) -> Vec<&str> {
    let mapped = profile
        .arch_map
        .iter()
        .filter(|map| map.architecture == ARCHITECTURES[0].name)
        .flat_map(|map| {
            [map.architecture.as_str()]
                .into_iter()
                .chain(map.sub_architectures.iter().map(String::as_str))
        });
    profile
        .architectures
        .iter()
        .map(String::as_str)
        .chain(mapped)
        .collect()
}

fn section(architecture: &Architecture, rules: &[(&CallRule, Rule)], default: Verdict) -> Section {
    let table: BTreeMap<&str, u32> = architecture
        .table
        .lines()
        .filter_map(|line| {
            let (name, number) = line.split_once(' ')?;
            Some((name, number.parse().ok()?))
        })
        .collect();
    let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for (given, rule) in rules {
        for name in given.names.iter().chain([&given.name]) {
            if let Some(&number) = table.get(name.as_str()) {
                calls.entry(number).or_default().push(rule.clone());
            }
        }
    }
    let allows_all = matches!(
        default & libc::SECCOMP_RET_ACTION_FULL,
        libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG
    );
    // Programs probe for new calls and cope with ENOSYS, not with EPERM.
    let unknown = if allows_all {
        default
    } else {
        libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32
    };
    // The highest number the table knows ends what "unknown" means: without a rule
    // of its own such a call gets the default.
    if let Some(&last) = table.values().max() {
        calls.entry(last).or_default();
    }
    Section {
        audit: architecture.audit,
        calls,
        default,
        unknown,
    }
}

fn applies(rule: &CallRule, context: Context<'_>) -> Result<bool, ProfileError> {
    let has = |name: &String| context.capabilities.contains(name);
    let here = |name: &String| name == ARCHITECTURES[0].short;
    let new_enough = |filter: &Filter| -> Result<bool, ProfileError> {
        let wrong = || ProfileError::Kernel(filter.min_kernel.clone());
        let (major, minor) = filter.min_kernel.split_once('.').ok_or_else(wrong)?;
        let wanted = (
            major.parse().map_err(|_| wrong())?,
            minor.parse().map_err(|_| wrong())?,
        );
        Ok(context.kernel >= wanted)
    };
    let (includes, excludes) = (&rule.includes, &rule.excludes);
    let included = (includes.caps.is_empty() || includes.caps.iter().all(has))
        && (includes.arches.is_empty() || includes.arches.iter().any(here))
        && (includes.min_kernel.is_empty() || new_enough(includes)?);
    let excluded = excludes.caps.iter().any(has)
        || excludes.arches.iter().any(here)
        || (!excludes.min_kernel.is_empty() && new_enough(excludes)?);
    Ok(included && !excluded)
}

fn lower(rule: &CallRule) -> Result<Rule, ProfileError> {
    let arguments = rule.args.as_deref().unwrap_or_default();
    if arguments.len() > 6 {
        let name = rule.names.first().unwrap_or(&rule.name);
        return Err(ProfileError::TooManyConditions(name.clone()));
    }
    Ok(Rule {
        comparisons: arguments.iter().map(comparison).collect::<Result<_, _>>()?,
        verdict: verdict(&rule.action, rule.errno_ret)?,
    })
}

fn comparison(argument: &Argument) -> Result<Comparison, ProfileError> {
    let (operator, value) = match argument.op.as_str() {
        "SCMP_CMP_NE" => (Operator::NotEqual, argument.value),
        "SCMP_CMP_LT" => (Operator::Less, argument.value),
        "SCMP_CMP_LE" => (Operator::LessOrEqual, argument.value),
        "SCMP_CMP_EQ" => (Operator::Equal, argument.value),
        "SCMP_CMP_GE" => (Operator::GreaterOrEqual, argument.value),
        "SCMP_CMP_GT" => (Operator::Greater, argument.value),
        // The mask comes first, then what must be left.
        "SCMP_CMP_MASKED_EQ" => (
            Operator::MaskedEqual {
                mask: argument.value,
            },
            argument.value_two,
        ),
        other => return Err(ProfileError::Operator(other.to_owned())),
    };
    if argument.index > 5 {
        return Err(ProfileError::Index(argument.index));
    }
    Ok(Comparison {
        argument: argument.index,
        operator,
        value,
    })
}

fn verdict(action: &str, errno: Option<u32>) -> Result<Verdict, ProfileError> {
    let data = |default: i32| errno.unwrap_or(default as u32) & libc::SECCOMP_RET_DATA;
    Ok(match action {
        "SCMP_ACT_ALLOW" => libc::SECCOMP_RET_ALLOW,
        "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | data(libc::EPERM),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => libc::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
        "SCMP_ACT_TRACE" => libc::SECCOMP_RET_TRACE | data(libc::EPERM),
        "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
        other => return Err(ProfileError::Action(other.to_owned())),
    })
}

/// Puts this process, and all it becomes, under the filter. Needs `CAP_SYS_ADMIN`
/// or `no_new_privs`.
///
/// # Errors
/// The kernel refused.
pub fn install(filter: &[Instruction]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` and the instructions outlive the call; the kernel copies
    // them and does not write to them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    const NATIVE: u32 = 0xc000_003e;
    const COMPAT: u32 = 0x4000_0003;
    const ALLOW: Verdict = libc::SECCOMP_RET_ALLOW;
    const EPERM: Verdict = libc::SECCOMP_RET_ERRNO | 1;
    const ENOSYS: Verdict = libc::SECCOMP_RET_ERRNO | 38;

    fn default_for(capabilities: &[&str]) -> impl Fn(i64, [u64; 6]) -> Verdict {
        let capabilities: Vec<String> = capabilities.iter().map(|&name| name.into()).collect();
        let program = default_filter(Context {
            capabilities: &capabilities,
            kernel: (6, 1),
        })
        .unwrap();
        move |number, arguments| bpf::run(&program, NATIVE, number as u32, arguments)
    }

    #[test]
    fn docker_defaults_allow_work_and_refuse_the_host() {
        let verdict = default_for(&["CAP_CHOWN", "CAP_SYS_CHROOT"]);
        for allowed in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_futex,
            libc::SYS_openat2,
            libc::SYS_ptrace,
            libc::SYS_chroot,
            libc::SYS_arch_prctl,
            libc::SYS_faccessat2,
        ] {
            assert_eq!(verdict(allowed, [0; 6]), ALLOW, "{allowed}");
        }
        for refused in [
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_kexec_load,
            libc::SYS_unshare,
            libc::SYS_reboot,
            libc::SYS_io_uring_setup,
            libc::SYS_clock_settime,
            libc::SYS_open_by_handle_at,
        ] {
            assert_eq!(verdict(refused, [0; 6]), EPERM, "{refused}");
        }
    }

    #[test]
    fn arguments_decide_where_they_matter() {
        let verdict = default_for(&[]);
        let first = |value| [value, 0, 0, 0, 0, 0];
        let vsock = libc::AF_VSOCK as u64;
        assert_eq!(verdict(libc::SYS_socket, first(2)), ALLOW);
        assert_eq!(verdict(libc::SYS_socket, first(vsock)), EPERM);
        assert_eq!(verdict(libc::SYS_personality, first(0x20008)), ALLOW);
        assert_eq!(verdict(libc::SYS_personality, first(0x40000)), EPERM);
        let threads = libc::CLONE_VM as u64 | libc::CLONE_THREAD as u64;
        let user = libc::CLONE_NEWUSER as u64;
        assert_eq!(verdict(libc::SYS_clone, first(threads)), ALLOW);
        assert_eq!(verdict(libc::SYS_clone, first(user)), EPERM);
        assert_eq!(verdict(libc::SYS_clone3, [0; 6]), ENOSYS);
    }

    #[test]
    fn capabilities_open_what_they_are_for() {
        let verdict = default_for(&["CAP_SYS_ADMIN"]);
        let user = [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0];
        assert_eq!(verdict(libc::SYS_mount, [0; 6]), ALLOW);
        assert_eq!(verdict(libc::SYS_clone, user), ALLOW);
        assert_eq!(verdict(libc::SYS_clone3, [0; 6]), ALLOW);
    }

    #[test]
    fn calls_newer_than_the_profile_do_not_exist() {
        let verdict = default_for(&[]);
        assert_eq!(verdict(5000, [0; 6]), ENOSYS);
        assert_eq!(verdict(0x4000_0000, [0; 6]), ENOSYS);
    }

    #[test]
    fn programs_of_32_bits_run_under_their_own_numbers() {
        let program = default_filter(Context {
            capabilities: &[],
            kernel: (6, 1),
        })
        .unwrap();
        // 4 is write and 21 is mount in the 32-bit table.
        assert_eq!(bpf::run(&program, COMPAT, 4, [0; 6]), ALLOW);
        assert_eq!(bpf::run(&program, COMPAT, 21, [0; 6]), EPERM);
        assert!(program.len() < 1500, "{}", program.len());
    }

    #[test]
    fn a_profile_of_ones_own_is_followed_and_mistakes_are_named() {
        let context = Context {
            capabilities: &[],
            kernel: (6, 1),
        };
        let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"name": "mkdir", "action": "SCMP_ACT_ERRNO", "errnoRet": 17, "args": null},
            {"names": ["no_such_call"], "action": "SCMP_ACT_KILL"}]}"#;
        let program = filter(profile, context).unwrap();
        let mkdir = libc::SYS_mkdir as u32;
        assert_eq!(
            bpf::run(&program, NATIVE, mkdir, [0; 6]),
            libc::SECCOMP_RET_ERRNO | 17
        );
        assert_eq!(bpf::run(&program, NATIVE, 1000, [0; 6]), ALLOW);
        let wrong = r#"{"defaultAction": "SCMP_ACT_PERHAPS"}"#;
        assert_eq!(
            filter(wrong, context).unwrap_err(),
            ProfileError::Action("SCMP_ACT_PERHAPS".into())
        );
        assert!(matches!(filter("{", context), Err(ProfileError::Json(_))));
    }
}
