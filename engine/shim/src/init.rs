//! The tiny init of `docker run --init`: runs the program, passes signals on to it,
//! reaps orphans, ends as the program ends.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::failure::{NOT_EXECUTABLE, NOT_FOUND};

/// Signals that say something about init itself and are not passed on.
const OWN_SIGNALS: [Signal; 8] = [
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGABRT,
    Signal::SIGTRAP,
    Signal::SIGSYS,
    Signal::SIGTTOU,
];

/// Runs the program in `args`; returns the exit code to end with.
pub fn main(args: impl Iterator<Item = std::ffi::OsString>) -> i32 {
    let args: Vec<CString> = args
        .skip_while(|argument| argument == "--")
        .filter_map(|argument| CString::new(argument.into_vec()).ok())
        .collect();
    if args.is_empty() {
        eprintln!("docker-init: no program to run");
        return NOT_FOUND;
    }
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("docker-init: {error}");
            1
        }
    }
}

fn run(args: &[CString]) -> io::Result<i32> {
    // Executed through a descriptor, it would otherwise be called by its number.
    crate::sys::prctl(libc::PR_SET_NAME, c"docker-init".as_ptr() as u64, 0)?;
    let mut watched = SigSet::all();
    for signal in OWN_SIGNALS {
        watched.remove(signal);
    }
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&watched), Some(&mut before))?;
    // SAFETY: init has one thread.
    let child = match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => become_program(args, &before),
        ForkResult::Parent { child } => child,
    };
    loop {
        let signal = watched.wait()?;
        if signal == Signal::SIGCHLD {
            if let Some(code) = reap(child) {
                return Ok(code);
            }
        } else {
            // A program that ended just now is reaped in the next round.
            let _ = kill(child, signal);
        }
    }
}

/// Reaps all that have ended; the exit code if the program is among them.
fn reap(program: Pid) -> Option<i32> {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == program => ended = Some(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => {
                ended = Some(128 + signal as i32);
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return ended,
            Ok(_) => {}
        }
    }
}

/// In a process group of its own, in front of the terminal if there is one.
fn become_program(args: &[CString], mask: &SigSet) -> ! {
    let own = nix::unistd::getpid();
    // Neither can fail in a way the program would mind.
    let _ = nix::unistd::setpgid(own, own);
    // Whoever steps in front of a terminal from behind is stopped, unless deaf to that.
    let mut stopping = SigSet::empty();
    stopping.add(Signal::SIGTTOU);
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&stopping), None);
    let _ = nix::unistd::tcsetpgrp(io::stdin(), own);
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None);
    let Err(error) = nix::unistd::execvp(&args[0], args);
    eprintln!(
        "[FATAL tini ({own})] exec {} failed: {}",
        args[0].to_string_lossy(),
        error.desc()
    );
    let code = if error == nix::errno::Errno::ENOENT {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    };
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(code) }
}
