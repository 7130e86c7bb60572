//! Which devices a group may use, under version 2: a small program the kernel runs
//! at each use. Version 1 has files for it.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// One instruction, as the kernel lays it out.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    value: i32,
}

const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE_REGISTER: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X, 32 bits
const MOVE_VALUE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const AND_VALUE: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K, 32 bits
const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K, 32 bits
const JUMP_UNLESS_VALUE: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const JUMP_UNLESS_REGISTER: u8 = 0x5d; // BPF_JMP | BPF_JNE | BPF_X
const EXIT: u8 = 0x95;

/// Where the parts of a question are kept: type, access, major, minor.
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// A rule in numbers; what is absent is any.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

/// Allows the group behind an open directory what the rules (`c 1:3 rwm`) say, and
/// nothing else.
///
/// # Errors
/// A rule is not in docker's form, or the kernel refused the program.
pub fn attach(group: BorrowedFd<'_>, rules: &[String]) -> io::Result<()> {
    let rules = rules
        .iter()
        .map(|rule| {
            parse(rule).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("invalid device rule `{rule}`"),
                )
            })
        })
        .collect::<io::Result<Vec<Rule>>>()?;
    let program = load(&compile(&rules))?;

    const PROG_ATTACH: libc::c_long = 8;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let attach = Attach {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure is the beginning of the union this command reads, its
    // size is given, and it outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            &raw const attach,
            size_of::<Attach>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_long = 5;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
    }
    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    // SAFETY: the structure is the beginning of the union this command reads, its
    // size is given; it and what it points to outlive the call. The result is
    // checked and owned by nobody else.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>());
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

fn parse(rule: &str) -> Option<Rule> {
    let mut words = rule.split(' ');
    let kind = match words.next()? {
        "a" => None,
        "b" => Some(BLOCK),
        "c" => Some(CHARACTER),
        _ => return None,
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let number = |text: &str| match text {
        "*" => Some(None),
        digits => digits.parse().ok().map(Some),
    };
    let access = words.next()?.chars().try_fold(0, |access, letter| {
        let bit = match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MAKE,
            _ => return None,
        };
        Some(access | bit)
    })?;
    Some(Rule {
        kind,
        major: number(major)?,
        minor: number(minor)?,
        access,
    })
}

fn compile(rules: &[Rule]) -> Vec<Instruction> {
    let simple = |code, register, value| Instruction {
        code,
        registers: register,
        offset: 0,
        value,
    };
    let load = |register: u8, offset| Instruction {
        code: LOAD_WORD,
        registers: register | 1 << 4,
        offset,
        value: 0,
    };
    // The question: type in the low and access in the high half of the first word,
    // then the numbers.
    let mut program = vec![
        load(TYPE, 0),
        simple(AND_VALUE, TYPE, 0xffff),
        load(ACCESS, 0),
        simple(SHIFT_RIGHT, ACCESS, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules {
        let mut checks = Vec::new();
        for (register, wanted) in [(TYPE, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(value) = wanted {
                checks.push(simple(JUMP_UNLESS_VALUE, register, value));
            }
        }
        if rule.access != READ | WRITE | MAKE {
            // Nothing may be asked for that the rule does not give.
            checks.push(Instruction {
                code: MOVE_REGISTER,
                registers: 1 | ACCESS << 4,
                offset: 0,
                value: 0,
            });
            checks.push(simple(AND_VALUE, 1, rule.access));
            checks.push(Instruction {
                code: JUMP_UNLESS_REGISTER,
                registers: 1 | ACCESS << 4,
                offset: 0,
                value: 0,
            });
        }
        checks.push(simple(MOVE_VALUE, 0, 1));
        checks.push(simple(EXIT, 0, 0));
        let length = checks.len();
        for (position, check) in checks.iter_mut().enumerate() {
            if matches!(check.code, JUMP_UNLESS_VALUE | JUMP_UNLESS_REGISTER) {
                // To the next rule.
                check.offset = (length - position - 1) as i16;
            }
        }
        program.extend(checks);
    }
    program.push(simple(MOVE_VALUE, 0, 0));
    program.push(simple(EXIT, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_numbers() {
        assert_eq!(
            parse("c 136:* rw"),
            Some(Rule {
                kind: Some(CHARACTER),
                major: Some(136),
                minor: None,
                access: READ | WRITE,
            })
        );
        for wrong in ["", "c", "c 1 r", "x 1:2 r", "c 1:2 q"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    /// Runs a program as the kernel would.
    fn allows(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let question = [kind | access << 16, major, minor];
        let mut registers = [0_i32; 6];
        let mut at = 0;
        loop {
            let step = program[at];
            at += 1;
            let target = usize::from(step.registers & 15);
            let source = usize::from(step.registers >> 4);
            match step.code {
                LOAD_WORD => registers[target] = question[step.offset as usize / 4],
                MOVE_REGISTER => registers[target] = registers[source],
                MOVE_VALUE => registers[target] = step.value,
                AND_VALUE => registers[target] &= step.value,
                SHIFT_RIGHT => registers[target] >>= step.value,
                JUMP_UNLESS_VALUE if registers[target] != step.value => {
                    at += step.offset as usize;
                }
                JUMP_UNLESS_REGISTER if registers[target] != registers[source] => {
                    at += step.offset as usize;
                }
                JUMP_UNLESS_VALUE | JUMP_UNLESS_REGISTER => {}
                EXIT => return registers[0] == 1,
                code => panic!("unexpected instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn only_what_a_rule_gives_is_allowed() {
        let rules = ["c *:* m", "c 1:3 rwm", "b 8:* r"].map(|rule| parse(rule).unwrap());
        let program = compile(&rules);
        let check = |kind, access, major, minor, allowed| {
            assert_eq!(
                allows(&program, kind, access, major, minor),
                allowed,
                "{kind} {access} {major}:{minor}"
            );
        };
        check(CHARACTER, MAKE, 9, 9, true);
        check(CHARACTER, MAKE | READ, 9, 9, false);
        check(CHARACTER, READ | WRITE, 1, 3, true);
        check(CHARACTER, READ, 1, 4, false);
        check(BLOCK, READ, 8, 1, true);
        check(BLOCK, READ | WRITE, 8, 1, false);
        check(BLOCK, MAKE, 8, 1, false);
    }

    /// With the kernel, where a version 2 hierarchy is mounted anywhere.
    #[test]
    fn the_kernel_takes_the_program_and_obeys_it() {
        use std::os::fd::AsFd as _;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = mounts.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            after
                .starts_with("cgroup2 ")
                .then(|| before.split(' ').nth(4))?
        });
        // SAFETY: no pointers.
        let is_root = unsafe { libc::geteuid() } == 0;
        let (Some(root), true) = (root, is_root) else {
            println!("skipped: needs root and a version 2 hierarchy");
            return;
        };
        let name = format!("skep-device-test-{}", std::process::id());
        let group = std::path::Path::new(root).join(name);
        std::fs::create_dir(&group).unwrap();
        let opened = crate::sys::open(&group, libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
        let rules = ["c 1:3 rwm".to_owned()];
        let attached = attach(opened.as_fd(), &rules);
        let run = || {
            let script = format!(
                "echo $$ > {}/cgroup.procs && : < /dev/null && ! (: < /dev/zero) 2>/dev/null",
                group.display()
            );
            std::process::Command::new("sh")
                .args(["-c", &script])
                .status()
        };
        let obeyed = attached.as_ref().ok().map(|()| run());
        // The group may be busy for the moment its last process takes to go.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while std::fs::remove_dir(&group).is_err() {
            assert!(std::time::Instant::now() < end);
            std::thread::yield_now();
        }
        attached.unwrap();
        assert!(obeyed.unwrap().unwrap().success());
    }
}
