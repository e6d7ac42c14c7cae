"""Format "cubeide": a project that STM32CubeIDE imports ("Existing Projects into Workspace").

The names of elements and identifiers are those of the projects in STMicroelectronics' STM32CubeL4 and STM32CubeH7
(`Projects/*/Templates/STM32CubeIDE/.cproject`, `.project`).
"""

from __future__ import annotations

import re
import zlib
from xml.etree import ElementTree

from millijoule.boards import Board
from millijoule.deploy.export import make
from millijoule.deploy.export._readme import flash_section
from millijoule.deploy.export.project import Format, Project

__all__ = ["FORMAT", "microcontroller"]

_PREFIX = "com.st.stm32cube.ide.mcu.gnu.managedbuild"
_FOLDERS = ("board", "model", "src")
_INCLUDES = ("../board", "../model")
_LEVELS = {"Debug": "og", "Release": "o3"}
_NATURES = (
    "com.st.stm32cube.ide.mcu.MCUProjectNature",
    "org.eclipse.cdt.core.cnature",
    "com.st.stm32cube.ide.mcu.MCUCubeIdeServicesRevAProjectNature",
    "com.st.stm32cube.ide.mcu.MCUNonUnderRootProjectNature",
    "com.st.stm32cube.ide.mcu.MCUEndUserDisabledTrustZoneProjectNature",
    "com.st.stm32cube.ide.mcu.MCUSingleCpuProjectNature",
    "com.st.stm32cube.ide.mcu.MCURootProjectNature",
    "org.eclipse.cdt.managedbuilder.core.managedBuildNature",
    "org.eclipse.cdt.managedbuilder.core.ScannerConfigNature",
)
_BUILDERS = {
    "org.eclipse.cdt.managedbuilder.core.genmakebuilder": "clean,full,incremental,",
    "org.eclipse.cdt.managedbuilder.core.ScannerConfigBuilder": "full,incremental,",
}
_PARSERS = ("GASErrorParser", "GmakeErrorParser", "GLDErrorParser", "CWDLocator", "GCCErrorParser")
_SCRIPT = "${workspace_loc:/${ProjName}/firmware.ld}"
# What the IDE does not set by itself. The last one: GCC would turn the loops of memcpy into calls of memcpy.
_COMPILER_FLAGS = (
    "-ffp-contract=off",
    "-ffreestanding",
    "-fomit-frame-pointer",
    "-fno-math-errno",
    "-fno-common",
    "-fno-tree-loop-distribute-patterns",
)
_LINKER_FLAGS = ("-nostartfiles", "-Wl,-e,Reset_Handler")


def _files(project: Project) -> dict[str, str]:
    settings = {".project": _description(project), ".cproject": _settings(project)}
    return {**make.FORMAT.files(project), **settings}


def microcontroller(board: Board) -> str:
    """The part as the IDE spells it, for example STM32L4R9AIIx; the board's title where no part is known."""
    if board.probe is None:
        return board.title
    return re.sub(r"X(Q?)$", r"x\1", board.probe.pyocd.upper())


def _document(root: ElementTree.Element, head: str) -> str:
    ElementTree.indent(root, "\t")
    return head + ElementTree.tostring(root, encoding="unicode") + "\n"


def _description(project: Project) -> str:
    root = ElementTree.Element("projectDescription")
    ElementTree.SubElement(root, "name").text = project.name
    ElementTree.SubElement(root, "comment")
    ElementTree.SubElement(root, "projects")
    build = ElementTree.SubElement(root, "buildSpec")
    for name, triggers in _BUILDERS.items():
        command = ElementTree.SubElement(build, "buildCommand")
        ElementTree.SubElement(command, "name").text = name
        ElementTree.SubElement(command, "triggers").text = triggers
        ElementTree.SubElement(command, "arguments")
    natures = ElementTree.SubElement(root, "natures")
    for name in _NATURES:
        ElementTree.SubElement(natures, "nature").text = name
    return _document(root, '<?xml version="1.0" encoding="UTF-8"?>\n')


def _settings(project: Project) -> str:
    root = ElementTree.Element("cproject", storage_type_id="org.eclipse.cdt.core.XmlProjectDescriptionStorage")
    settings = _module(root, "org.eclipse.cdt.core.settings")
    for configuration in _LEVELS:
        _Configuration(project, configuration).add_to(settings)
    build = _module(root, "cdtBuildSystem", {"version": "4.0.0"})
    ElementTree.SubElement(build, "project", id=f"{project.name}.null.{_number(project.name)}", name=project.name)
    for name in ("org.eclipse.cdt.core.LanguageSettingsProviders", "refreshScope"):
        _module(root, name)
    return _document(root, '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n<?fileVersion 4.0.0?>')


def _module(parent: ElementTree.Element, module: str, attributes: dict[str, str] | None = None) -> ElementTree.Element:
    return ElementTree.SubElement(parent, "storageModule", {"moduleId": module, **(attributes or {})})


def _number(text: str) -> int:
    """The number at the end of an identifier: the IDE draws it, here it follows from what it stands for."""
    return zlib.crc32(text.encode("utf-8"))


class _Configuration:
    """Debug or Release, as elements of `.cproject`."""

    def __init__(self, project: Project, name: str) -> None:
        self.project = project
        self.name = name
        self.id = self.identifier(f"config.exe.{name.lower()}")

    def identifier(self, kind: str) -> str:
        """`kind` with the IDE's prefix and a number of its own."""
        return f"{_PREFIX}.{kind}.{_number(f'{self.name} {kind}')}"

    def add_to(self, settings: ElementTree.Element) -> None:
        """Appends the configuration."""
        core = "org.eclipse.cdt.core"
        outer = ElementTree.SubElement(settings, "cconfiguration", id=self.id)
        system = "org.eclipse.cdt.managedbuilder.core.configurationDataProvider"
        provider = _module(outer, f"{core}.settings", {"buildSystemId": system, "id": self.id, "name": self.name})
        ElementTree.SubElement(provider, "externalSettings")
        extensions = ElementTree.SubElement(provider, "extensions")
        ElementTree.SubElement(extensions, "extension", id=f"{core}.ELF", point=f"{core}.BinaryParser")
        for parser in _PARSERS:
            ElementTree.SubElement(extensions, "extension", id=f"{core}.{parser}", point=f"{core}.ErrorParser")
        self._build(_module(outer, "cdtBuildSystem", {"version": "4.0.0"}))
        _module(outer, f"{core}.externalSettings")

    def _build(self, parent: ElementTree.Element) -> None:
        core = "org.eclipse.cdt.build.core"
        properties = {
            f"{core}.buildArtefactType": f"{core}.buildArtefactType.exe",
            f"{core}.buildType": f"{core}.buildType.{self.name.lower()}",
        }
        attributes = {
            "artifactExtension": "elf",
            "artifactName": "${ProjName}",
            "buildArtefactType": f"{core}.buildArtefactType.exe",
            "buildProperties": ",".join(f"{key}={value}" for key, value in properties.items()),
            "cleanCommand": "rm -rf",
            "description": "",
            "id": self.id,
            "name": self.name,
            "parent": f"{_PREFIX}.config.exe.{self.name.lower()}",
        }
        configuration = ElementTree.SubElement(parent, "configuration", attributes)
        folder = ElementTree.SubElement(configuration, "folderInfo", id=f"{self.id}.", name="/", resourcePath="")
        self._tool_chain(folder)
        entries = ElementTree.SubElement(configuration, "sourceEntries")
        flags = "VALUE_WORKSPACE_PATH|RESOLVED"
        for name in _FOLDERS:
            ElementTree.SubElement(entries, "entry", flags=flags, kind="sourcePath", name=name)

    def _tool_chain(self, folder: ElementTree.Element) -> None:
        board = self.project.board
        unit = next(flag.split("=")[1] for flag in board.target_flags["gcc"] if flag.startswith("-mfpu="))
        parent = self._element(folder, "toolChain", f"toolchain.exe.{self.name.lower()}", "MCU ARM GCC")
        self._option(parent, "option.target_mcu", "MCU", microcontroller(board))
        self._option(parent, "option.target_cpuid", "CPU", "0")
        self._option(parent, "option.target_coreid", "Core", "0")
        self._choice(parent, "option.fpu", "Floating-point unit", unit)
        self._choice(parent, "option.floatabi", "Floating-point ABI", "hard")
        self._option(parent, "option.target_board", "Board", "genericBoard")
        self._option(parent, "option.defaults", "Defaults", self._defaults())
        self._element(parent, "targetPlatform", "targetplatform").attrib.update(
            archList="all", binaryParser="org.eclipse.cdt.core.ELF", isAbstract="false", osList="all"
        )
        self._element(parent, "builder", "builder", "Gnu Make Builder").attrib.update(
            buildPath=f"${{workspace_loc:/{self.project.name}}}/{self.name}",
            keepEnvironmentInBuildfile="false",
            managedBuildOn="true",
            parallelBuildOn="true",
            parallelizationNumber="optimal",
        )
        self._element(parent, "tool", "tool.assembler", "MCU GCC Assembler")
        self._compiler(self._element(parent, "tool", "tool.c.compiler", "MCU GCC Compiler"))
        self._linker(self._element(parent, "tool", "tool.c.linker", "MCU GCC Linker"))
        self._element(parent, "tool", "tool.archiver", "MCU GCC Archiver")
        self._element(parent, "tool", "tool.size", "MCU Size")
        self._element(parent, "tool", "tool.objdump.listfile", "MCU Output Converter list file")
        self._element(parent, "tool", "tool.objcopy.hex", "MCU Output Converter Hex")
        self._element(parent, "tool", "tool.objcopy.binary", "MCU Output Converter Binary")

    def _compiler(self, tool: ElementTree.Element) -> None:
        option = "tool.c.compiler.option"
        debug = "g3" if self.name == "Debug" else "g0"
        self._choice(tool, f"{option}.debuglevel", "Debug level", debug)
        self._choice(tool, f"{option}.optimization.level", "Optimization level", _LEVELS[self.name])
        self._list(tool, f"{option}.includepaths", "Include paths (-I)", "includePath", _INCLUDES)
        self._list(tool, f"{option}.otherflags", "Other flags", "stringList", _COMPILER_FLAGS)
        self._element(tool, "inputType", "tool.c.compiler.input.c")

    def _linker(self, tool: ElementTree.Element) -> None:
        option = "tool.c.linker.option"
        self._option(tool, f"{option}.script", "Linker Script (-T)", _SCRIPT)
        self._list(tool, f"{option}.otherflags", "Other flags", "stringList", _LINKER_FLAGS)
        objects = self._element(tool, "inputType", "tool.c.linker.input")
        ElementTree.SubElement(objects, "additionalInput", kind="additionalinputdependency", paths="$(USER_OBJS)")
        ElementTree.SubElement(objects, "additionalInput", kind="additionalinput", paths="$(LIBS)")

    def _defaults(self) -> str:
        """What the IDE's "Restore defaults" returns to, in the order of its input revision A 1.0.5."""
        debug = str(self.name == "Debug").lower()
        parts = ["com.st.stm32cube.ide.common.services.build.inputs.revA.1.0.5", self.name, debug, "Executable"]
        parts += [f"{_PREFIX}.option.toolchain.value.workspace", microcontroller(self.project.board), "0", "0"]
        parts += ["arm-none-eabi-", "${gnu_tools_for_stm32_compiler_path}", " | ".join(_INCLUDES), *[""] * 7]
        return " || ".join([*parts, _SCRIPT, "true", "NonSecure", "", "", "", "None", ""])

    def _element(self, parent: ElementTree.Element, tag: str, kind: str, name: str = "") -> ElementTree.Element:
        attributes = {"id": self.identifier(kind), "superClass": f"{_PREFIX}.{kind}"}
        return ElementTree.SubElement(parent, tag, {**attributes, "name": name} if name else attributes)

    def _option(self, parent: ElementTree.Element, kind: str, name: str, value: str) -> None:
        self._element(parent, "option", kind, name).attrib.update(value=value, valueType="string")

    def _choice(self, parent: ElementTree.Element, kind: str, name: str, value: str) -> None:
        full = f"{_PREFIX}.{kind}.value.{value}"
        self._element(parent, "option", kind, name).attrib.update(value=full, valueType="enumerated")

    def _list(
        self, parent: ElementTree.Element, kind: str, name: str, value_type: str, values: tuple[str, ...]
    ) -> None:
        option = self._element(parent, "option", kind, name)
        option.attrib.update(IS_BUILTIN_EMPTY="false", IS_VALUE_EMPTY="false", valueType=value_type)
        for value in values:
            ElementTree.SubElement(option, "listOptionValue", builtIn="false", value=value)


def _readme(project: Project) -> str:
    return f"""## Build

In STM32CubeIDE: File, Import, General, Existing Projects into Workspace, this folder, Finish; then Project, Build
Project. The part is set to {microcontroller(project.board)}. Configuration Debug compiles with `-Og -g3` and can be
stepped through; Release compiles with `-O3`: measure with that one.

What was checked: `.project` and `.cproject` are well-formed and use the names that ST's own projects use, and the
flags, folders and linker script in them, given to arm-none-eabi-gcc, make a firmware whose results are right in every
bit. The IDE itself was not at hand. Should it refuse the project, the `Makefile` builds the same firmware (`make`), and
any IDE can call that.

`make test` compiles the model for this computer and compares it with the golden logits; `make golden` builds the same
test for the board: it prints `golden: pass`.

{flash_section(project)}"""


FORMAT = Format(
    "cubeide",
    "a project for STM32CubeIDE",
    _files,
    _readme,
    firmware=True,
    listing=((".project, .cproject", "the project"), ("Makefile", "the same build without the IDE")),
)
