//! Steers by the CPU that received a connection: a classic BPF program chooses a socket of an SO_REUSEPORT
//! group.

#![expect(unsafe_code, reason = "SO_ATTACH_REUSEPORT_CBPF has no safe wrapper in the crates we use")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::sock_filter;

/// The offset at which the kernel exposes the number of the CPU it runs on, linux/filter.h.
const CURRENT_CPU: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32;

/// Has the kernel give each connection to the socket whose position in the group is the position of the
/// receiving CPU in `cpus`; connections received on another CPU go to position `cpu % cpus.len()`. Positions
/// follow the order in which the sockets began to listen.
///
/// Any socket of the group will do. When a socket stops listening, the last socket takes its position.
///
/// # Errors
///
/// setsockopt(2): the kernel does not let this process set the option, or does not have it.
///
/// # Panics
///
/// If `cpus` is empty or not strictly increasing.
pub fn steer_by_cpu(socket: BorrowedFd<'_>, cpus: &[usize]) -> io::Result<()> {
    let mut program = program(cpus);
    let length = u16::try_from(program.len()).expect("limits::SHARDS_MAX keeps it below BPF_MAXINSNS");
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the kernel copies the program, which outlives the call, and keeps no pointer to it.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends the steering that an earlier process of the same sockets has begun; without effect if there is none.
pub fn stop_steering(socket: BorrowedFd<'_>) {
    let ignored: libc::c_int = 0;
    // The kernel may say that there is none.
    // SAFETY: the kernel reads at most an int, which outlives the call.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_REUSEPORT_BPF,
            (&raw const ignored).cast(),
            size_of_val(&ignored) as libc::socklen_t,
        )
    };
}

/// Emits one step for each run of consecutive CPUs, and the remainder for all others. A CPU needs at most two
/// instructions, so the kernel's limit of 4,096 suffices for `limits::SHARDS_MAX`.
fn program(cpus: &[usize]) -> Vec<sock_filter> {
    assert!(!cpus.is_empty() && cpus.is_sorted_by(|one, next| one < next), "{cpus:?} does not increase");
    let number = |value: usize| u32::try_from(value).expect("limits::CPU_MAX and limits::SHARDS_MAX fit");
    let step = |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: code as u16, jt, jf, k };
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, CURRENT_CPU)];
    let mut position = 0;
    for run in cpus.chunk_by(|one, next| one + 1 == *next) {
        let (first, last) = (run[0], run[run.len() - 1]);
        if first == last {
            program.extend([
                step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number(first)),
                step(libc::BPF_RET | libc::BPF_K, 0, 0, number(position)),
            ]);
            position += 1;
            continue;
        }
        program.extend([
            step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 3, number(first)),
            step(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 2, 0, number(last)),
            // CPU numbers strictly increase from 0 on, so none is below its position.
            step(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_K, 0, 0, number(first - position)),
            step(libc::BPF_RET | libc::BPF_A, 0, 0, 0),
        ]);
        position += run.len();
    }
    program.push(step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, number(cpus.len())));
    program.push(step(libc::BPF_RET | libc::BPF_A, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;
    use crate::base::limits;

    /// Returns what the program answers on a CPU: an interpreter of the instructions that the program
    /// consists of.
    fn run(program: &[sock_filter], cpu: u32) -> u32 {
        let (mut at, mut a) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            match u32::from(code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => a = cpu,
                code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => at += jump(a == k),
                code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => at += jump(a >= k),
                code if code == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => at += jump(a > k),
                code if code == libc::BPF_ALU | libc::BPF_SUB | libc::BPF_K => a -= k,
                code if code == libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K => a %= k,
                code if code == libc::BPF_RET | libc::BPF_K => return k,
                code if code == libc::BPF_RET | libc::BPF_A => return a,
                code => panic!("instruction {code:#x} is not expected"),
            }
        }
    }

    #[test]
    fn cpus_with_a_gap() {
        let program = program(&[0, 1, 2, 3, 8]);
        let positions: Vec<_> = (0..10).map(|cpu| run(&program, cpu)).collect();
        assert_eq!(positions, [0, 1, 2, 3, 4, 0, 1, 2, 4, 4]);
    }

    #[test]
    fn longest_program_is_one_the_kernel_takes() {
        const BPF_MAXINSNS: usize = 4_096;
        // All CPUs single, and all CPUs in pairs.
        for cpu in [|shard| 2 * shard + 1, |shard| shard + shard / 2] {
            let longest = program(&(0..limits::SHARDS_MAX).map(cpu).collect::<Vec<_>>());
            assert!(longest.len() <= BPF_MAXINSNS, "{}", longest.len());
        }
    }

    #[test]
    fn socket_without_a_group_is_refused() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        assert!(steer_by_cpu(socket.as_fd(), &[0]).is_err());
    }

    proptest! {
        #[test]
        fn each_cpu_has_the_position_of_its_shard(
            cpus in prop::collection::btree_set(0_usize..=limits::CPU_MAX as usize, 1..64), other in 0..=limits::CPU_MAX,
        ) {
            let cpus: Vec<_> = cpus.into_iter().collect();
            let program = program(&cpus);
            for (position, cpu) in cpus.iter().enumerate() {
                prop_assert_eq!(run(&program, *cpu as u32), position as u32);
            }
            prop_assert!((run(&program, other) as usize) < cpus.len());
        }
    }
}
