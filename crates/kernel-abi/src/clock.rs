//! The monotonic clock, by system call: the vDSO would need the auxiliary
//! vector, and a boot reads the clock some twenty times.

use linux_raw_sys::general::{
    __NR_clock_gettime, __kernel_timespec, CLOCK_BOOTTIME, CLOCK_REALTIME,
};

use rustix::event::Timespec;

use crate::arch::syscall5;

/// Microseconds since the kernel started, as printk counts them.
#[must_use]
pub fn micros() -> u64 {
    read(CLOCK_BOOTTIME)
}

/// Seconds since 1970, as the machine's clock has them: it may be wrong.
#[must_use]
pub fn unix_seconds() -> u64 {
    read(CLOCK_REALTIME) / 1_000_000
}

/// The processor's counter, which runs since the machine's reset: firmware's time is in
/// it. Its frequency is the machine's.
#[must_use]
pub fn ticks() -> u64 {
    crate::arch::ticks()
}

#[allow(unsafe_code, reason = "rustix reads clocks through the vDSO only")]
fn read(clock: u32) -> u64 {
    let mut now = __kernel_timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime(2) writes one timespec through its second argument,
    // which is valid and exclusively borrowed; it fails only on a bad pointer or
    // an unknown clock, and then `now` stays zero.
    unsafe {
        syscall5(
            __NR_clock_gettime,
            [
                clock as usize,
                core::ptr::from_mut(&mut now).addr(),
                0,
                0,
                0,
            ],
        );
    }
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000)
        .saturating_add(nanos / 1000)
}

/// `micros` microseconds as the kernel's calls take them.
pub(crate) fn timespec(micros: u64) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(micros % 1_000_000 * 1000).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_counter_runs() {
        let before = super::ticks();
        let start = super::micros();
        while super::micros() < start + 1000 {}
        assert!(super::ticks() > before);
    }

    #[test]
    fn the_time_of_day_is_the_systems() {
        let system = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        assert!(super::unix_seconds().abs_diff(system) <= 1);
    }

    #[test]
    fn the_clock_advances_with_uptime() {
        let before = super::micros();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let after = super::micros();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let micros = (seconds * 1e6) as u64;
        // /proc/uptime is cut to hundredths.
        assert!(before <= micros + 10_000 && micros <= after);
    }
}
