//! In which order to load modules.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::index::{Index, Module};

/// How deep dependencies may nest. depmod lists the dependencies of
/// dependencies too, so that real ones nest by their softdeps only.
const MAX_DEPTH: usize = 128;

/// Why modules cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderError {
    /// Neither a module, nor an alias of one, nor a part of the kernel.
    NotFound {
        /// The name that was asked for.
        name: String,
    },
    /// A module needs one that modules.dep does not have.
    MissingDependency {
        /// The module.
        module: String,
        /// What it needs.
        dependency: String,
    },
    /// Modules need each other.
    Cycle {
        /// Their names; the last needs the first.
        modules: Vec<String>,
    },
    /// modprobe.d says to run a command in place of loading the module. There
    /// is no shell to run it where these modules are loaded.
    InstallCommand {
        /// The module.
        module: String,
        /// The configuration file.
        file: String,
        /// The number of the line, from 1.
        line: usize,
        /// The command.
        command: String,
    },
    /// Dependencies nest too deep.
    TooDeep {
        /// The module at which it was noticed.
        module: String,
    },
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { name } => write!(
                f,
                "no kernel module has the name or alias \"{}\", and none is built in",
                name.escape_debug()
            ),
            Self::MissingDependency { module, dependency } => write!(
                f,
                "the kernel module {module} needs {dependency}, which modules.dep does not list; \
                 run depmod"
            ),
            Self::Cycle { modules } => {
                write!(f, "kernel modules need each other: ")?;
                for module in modules {
                    write!(f, "{module} -> ")?;
                }
                write!(f, "{}", modules.first().map_or("", String::as_str))
            }
            Self::InstallCommand {
                module,
                file,
                line,
                command,
            } if blocks(command) => write!(
                f,
                "{file} line {line} keeps {module} from being loaded (\"{}\"); remove the line \
                 or do without the module",
                command.escape_debug()
            ),
            Self::InstallCommand {
                module,
                file,
                line,
                command,
            } => write!(
                f,
                "{file} line {line} replaces the loading of {module} by the command \"{}\", which \
                 cannot run in early boot; remove the line or leave the module out",
                command.escape_debug()
            ),
            Self::TooDeep { module } => write!(
                f,
                "the dependencies of {module} nest more than {MAX_DEPTH} deep; run depmod"
            ),
        }
    }
}

impl core::error::Error for OrderError {}

/// Whether the command of an `install` line does nothing, which is how people
/// keep a module out where `blacklist` is not enough.
#[must_use]
pub fn blocks(command: &str) -> bool {
    let program = command.split_ascii_whitespace().next().unwrap_or("");
    let name = program.rsplit('/').next().unwrap_or(program);
    let alone = !command.contains(['&', '|', ';', '$', '`', '\n']);
    alone && matches!(name, "true" | "false" | ":")
}

impl Index {
    /// The modules to load for these names or aliases, each once, each after
    /// the modules that it needs and those that its softdeps put before it
    /// (unless these need it themselves). It is what the insmod lines of
    /// `modprobe --show-depends` list, without their repetitions. What is part
    /// of the kernel is left out, as is what an alias stands for and modprobe.d
    /// blacklists.
    ///
    /// # Errors
    /// What [`OrderError`] names.
    pub fn load_order<S: AsRef<str>>(&self, names: &[S]) -> Result<Vec<&Module>, OrderError> {
        let mut walk = Walk {
            index: self,
            states: vec![State::New; self.modules().len()],
            stack: Vec::new(),
            order: Vec::new(),
            later: VecDeque::new(),
        };
        for name in names {
            let name = name.as_ref();
            let resolved = self.resolve(name);
            if resolved.is_empty() {
                self.refuse_install(&crate::normalize(name).unwrap_or_default())?;
                return Err(OrderError::NotFound { name: name.into() });
            }
            let own_name = crate::normalize(name);
            for module in resolved.into_iter().filter_map(crate::Resolved::module) {
                // `blacklist` is about aliases: by its name a module loads.
                let by_name = own_name.as_deref() == Some(module.name.as_str());
                if by_name || !self.is_blacklisted(&module.name) {
                    walk.root(module)?;
                }
            }
        }
        Ok(walk
            .order
            .into_iter()
            .filter_map(|at| self.modules().get(at))
            .collect())
    }

    fn refuse_install(&self, module: &str) -> Result<(), OrderError> {
        match self.install_command(module) {
            None => Ok(()),
            Some(install) => Err(OrderError::InstallCommand {
                module: module.into(),
                file: install.file.clone(),
                line: install.line,
                command: install.command.clone(),
            }),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// Its dependencies are being walked.
    Active,
    Done,
}

struct Walk<'i> {
    index: &'i Index,
    states: Vec<State>,
    /// The active modules, outermost first.
    stack: Vec<usize>,
    order: Vec<usize>,
    /// Soft dependencies that need a module that is active.
    later: VecDeque<usize>,
}

impl Walk<'_> {
    fn root(&mut self, module: &Module) -> Result<(), OrderError> {
        if let Some(at) = self.index.position(&module.name) {
            self.visit(at)?;
        }
        while let Some(at) = self.later.pop_front() {
            self.visit(at)?;
        }
        Ok(())
    }

    fn state(&self, at: usize) -> State {
        self.states.get(at).copied().unwrap_or(State::Done)
    }

    fn set_state(&mut self, at: usize, state: State) {
        if let Some(slot) = self.states.get_mut(at) {
            *slot = state;
        }
    }

    fn visit(&mut self, at: usize) -> Result<(), OrderError> {
        let index = self.index;
        let Some(module) = index.modules().get(at) else {
            return Ok(());
        };
        match self.state(at) {
            State::Done => return Ok(()),
            State::Active => return Err(self.cycle(at)),
            State::New => {}
        }
        if self.stack.len() == MAX_DEPTH {
            return Err(OrderError::TooDeep {
                module: module.name.clone(),
            });
        }
        index.refuse_install(&module.name)?;
        self.set_state(at, State::Active);
        self.stack.push(at);
        for name in &module.needs {
            let need = index
                .position(name)
                .ok_or_else(|| OrderError::MissingDependency {
                    module: module.name.clone(),
                    dependency: name.clone(),
                })?;
            self.visit(need)?;
        }
        for soft in index.soft_pre(module) {
            self.visit_soft(soft)?;
        }
        self.stack.pop();
        self.set_state(at, State::Done);
        self.order.push(at);
        for soft in index.soft_post(module) {
            self.visit_soft(soft)?;
        }
        Ok(())
    }

    /// A hard dependency beats a soft one that contradicts it.
    fn visit_soft(&mut self, module: &Module) -> Result<(), OrderError> {
        let Some(at) = self.index.position(&module.name) else {
            return Ok(());
        };
        // One that is blocked was only wanted.
        let blocked = self.index.is_blocked(&module.name);
        if self.state(at) != State::New || blocked {
            return Ok(());
        }
        let needs_active = module.needs.iter().any(|name| {
            let need = self.index.position(name);
            need.is_some_and(|need| self.state(need) == State::Active)
        });
        if needs_active {
            self.later.push_back(at);
            Ok(())
        } else {
            self.visit(at)
        }
    }

    fn cycle(&self, at: usize) -> OrderError {
        let modules = self
            .stack
            .iter()
            .skip_while(|&&active| active != at)
            .filter_map(|&active| self.index.modules().get(active))
            .map(|module| module.name.clone())
            .collect();
        OrderError::Cycle { modules }
    }
}
