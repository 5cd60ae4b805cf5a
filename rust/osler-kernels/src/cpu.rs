//! Which instruction sets this process uses, found once.
//!
//! Reads the CPU's feature bits and the environment variable `OSLER_SIMD`; touches nothing else.

use std::sync::OnceLock;

/// An instruction set that the kernels are written for, from the plainest to the widest.
///
/// ```
/// use osler_kernels::Level;
/// assert!(Level::Scalar < Level::Avx512);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// No vendor instruction: runs everywhere and defines what the others must return.
    Scalar,
    /// 128-bit vectors of 64-bit ARM.
    Neon,
    /// 256-bit vectors of x86-64, with FMA and F16C.
    Avx2,
    /// 512-bit vectors of x86-64 (F, BW, DQ, VL), besides all that [`Level::Avx2`] asks for.
    Avx512,
}

impl Level {
    /// The level's name, as `OSLER_SIMD` takes it.
    ///
    /// ```
    /// assert_eq!(osler_kernels::Level::Avx2.name(), "avx2");
    /// ```
    pub const fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Neon => "neon",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }

    fn from_name(name: &str) -> Option<Level> {
        let name = name.trim();
        [Level::Scalar, Level::Neon, Level::Avx2, Level::Avx512]
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(name))
    }
}

/// The level in use: the best that this CPU has, or the one that `OSLER_SIMD` lowers it to.
///
/// `OSLER_SIMD` takes `scalar`, `neon`, `avx2` or `avx512` and is read at the first call. A level
/// that this CPU lacks gives the best one below it; any other value is ignored. Results do not
/// depend on the level, only speed does.
///
/// ```
/// let level = osler_kernels::level();
/// assert!(osler_kernels::levels().contains(&level));
/// ```
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| choose(levels(), std::env::var("OSLER_SIMD").ok().as_deref()))
}

/// Every level that this CPU can run, plainest first, whatever `OSLER_SIMD` says.
///
/// ```
/// assert_eq!(osler_kernels::levels()[0], osler_kernels::Level::Scalar);
/// ```
pub fn levels() -> &'static [Level] {
    static LEVELS: OnceLock<Vec<Level>> = OnceLock::new();
    LEVELS.get_or_init(|| {
        let mut levels = vec![Level::Scalar];
        levels.extend(vector_levels());
        levels
    })
}

fn choose(usable: &[Level], asked: Option<&str>) -> Level {
    let ceiling = asked.and_then(Level::from_name).unwrap_or(Level::Avx512);
    usable
        .iter()
        .copied()
        .filter(|&level| level <= ceiling)
        .max()
        .unwrap_or(Level::Scalar)
}

#[cfg(target_arch = "x86_64")]
fn vector_levels() -> Vec<Level> {
    let mut levels = Vec::new();
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
    {
        levels.push(Level::Avx2);
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            levels.push(Level::Avx512);
        }
    }
    levels
}

#[cfg(target_arch = "aarch64")]
fn vector_levels() -> Vec<Level> {
    if std::arch::is_aarch64_feature_detected!("neon") {
        vec![Level::Neon]
    } else {
        Vec::new()
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn vector_levels() -> Vec<Level> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86: &[Level] = &[Level::Scalar, Level::Avx2, Level::Avx512];

    #[test]
    fn nothing_asked_gives_the_best() {
        assert_eq!(choose(X86, None), Level::Avx512);
        assert_eq!(choose(&[Level::Scalar, Level::Neon], None), Level::Neon);
        assert_eq!(choose(&[Level::Scalar], None), Level::Scalar);
    }

    #[test]
    fn a_name_lowers_the_level() {
        assert_eq!(choose(X86, Some("avx2")), Level::Avx2);
        assert_eq!(choose(X86, Some(" AVX2 ")), Level::Avx2);
        assert_eq!(choose(X86, Some("scalar")), Level::Scalar);
    }

    #[test]
    fn a_missing_level_gives_the_best_below_it() {
        assert_eq!(choose(&X86[..2], Some("avx512")), Level::Avx2);
        assert_eq!(choose(X86, Some("neon")), Level::Scalar);
        let arm = [Level::Scalar, Level::Neon];
        assert_eq!(choose(&arm, Some("avx512")), Level::Neon);
    }

    #[test]
    fn an_unknown_name_is_ignored() {
        assert_eq!(choose(X86, Some("avx1024")), Level::Avx512);
        assert_eq!(choose(X86, Some("")), Level::Avx512);
    }

    /// With `OSLER_TEST_SIMD=all` a level that this CPU lacks is a failure.
    #[test]
    #[allow(clippy::print_stdout, reason = "says which levels the other tests ran")]
    fn every_level_of_this_architecture_ran_if_all_are_asked_for() {
        let names: Vec<_> = levels().iter().map(|level| level.name()).collect();
        println!("levels tested: {}", names.join(", "));
        let all: &[Level] = if cfg!(target_arch = "x86_64") {
            &[Level::Scalar, Level::Avx2, Level::Avx512]
        } else if cfg!(target_arch = "aarch64") {
            &[Level::Scalar, Level::Neon]
        } else {
            &[Level::Scalar]
        };
        match std::env::var("OSLER_TEST_SIMD").as_deref() {
            Ok("all") => assert_eq!(
                levels(),
                all,
                "OSLER_TEST_SIMD=all, and this CPU lacks a level"
            ),
            Ok(other) => panic!("OSLER_TEST_SIMD={other}: only 'all' is known"),
            Err(_) => assert!(all.starts_with(levels())),
        }
    }

    /// Checks this process; the test below runs it in processes of other environments.
    #[test]
    fn the_level_in_use_is_the_one_asked_for() {
        let asked = std::env::var("OSLER_SIMD").unwrap_or_default();
        let usable = levels().iter().find(|level| level.name() == asked);
        if let Some(&asked) = usable {
            assert_eq!(level(), asked);
        }
        assert!(levels().contains(&level()));
        assert_eq!(crate::Kernels::best().level(), level());
        let bits = crate::dot(&[0.1; 77], &[0.7; 77]).to_bits();
        assert_eq!(bits, crate::scalar::dot(&[0.1; 77], &[0.7; 77]).to_bits());
    }

    #[test]
    fn the_environment_lowers_the_level() {
        let names = levels().iter().map(|level| level.name());
        for name in names.chain(["neon", "avx512", "avx1024", ""]) {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "cpu::tests::the_level_in_use_is_the_one_asked_for",
                ])
                .env("OSLER_SIMD", name)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && text.contains("1 passed"),
                "OSLER_SIMD={name}: {text}"
            );
        }
    }
}
