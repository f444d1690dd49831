# ruff: noqa: E501  # one row of a table, one line
"""Items of every type that `openai` 3.54 can send to a conversation, but the two that are requests and no content.

`item_reference` names an item that is stored elsewhere; `compaction_trigger` asks for a compaction.
"""

from copy import deepcopy
from typing import Any

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
DIRECT = {"type": "direct"}
PROGRAM = {"type": "program", "caller_id": "call_program_1"}
CACHED = {"mode": "explicit", "ttl": "12h"}
SCHEMA = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "number"}}, "required": ["z", "a"]}
WEATHER = {"type": "function", "name": "weather", "description": None, "parameters": SCHEMA, "strict": True}


def _message(role: str, *parts: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": list(parts), **members}


def _said(text: str, **members: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], **members}


def _asked(text: str, **members: Any) -> dict[str, Any]:
    return {"type": "input_text", "text": text, **members}


EASY_MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "What is a monad?"},
    {"role": "assistant", "content": "A burrito."},
    {"role": "system", "content": "Be brief."},
    {"role": "developer", "content": ""},
    {
        "type": "message",
        "role": "user",
        "content": "  spaces, \ttabs\r\nand \u2028 lines; e\u0301 is not \u00e9 \U0001f469\u200d\U0001f680 ",
    },
    {"role": "user", "content": "nothing: \0, and what only looks like it: \\u0000"},
    {"role": "assistant", "content": "Let me look that up.", "phase": "commentary"},
    {"type": "message", "role": "assistant", "content": "It is a monoid.", "phase": "final_answer"},
    {"role": "user", "content": [_asked("And "), _asked("now?")]},
]

INPUT_MESSAGES: list[dict[str, Any]] = [
    _message("user", _asked("What is in this picture?"), {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "high"}),
    _message("user", {"type": "input_image", "file_id": "file-abc123", "detail": "original"}),
    _message("user", {"type": "input_image", "image_url": "https://example.com/a.png"}),  # no detail: `auto`
    _message("user", {"type": "input_file", "file_id": "file-abc123"}, _asked("Sum this up.", prompt_cache_breakpoint=CACHED)),
    _message("user", {"type": "input_file", "file_data": f"data:image/png;base64,{PIXEL}", "filename": "dot.png"}),
    _message("user", {"type": "input_file", "file_url": "https://example.com/a.pdf", "detail": "low"}),
    _message("system", _asked("You are a pirate."), status="completed"),
    _message("developer", _asked("Use the tools."), status="in_progress"),
    _message("user", _asked("I was cut o"), status="incomplete"),
]  # fmt: skip

OUTPUT_MESSAGES: list[dict[str, Any]] = [
    _message("assistant", _said("Ahoy."), id="msg_ahoy", status="completed"),
    _message("assistant", _said("Once upon a"), id="msg_cut", status="incomplete", phase="final_answer"),
    _message("assistant", {"type": "refusal", "refusal": "I cannot help with that."}, id="msg_no", status="completed"),
    _message(
        "assistant",
        _said(
            "See here.",
            annotations=[
                {"type": "file_citation", "file_id": "file-1", "filename": "a.txt", "index": 3},
                {"type": "url_citation", "url": "https://example.com/", "title": "A", "start_index": 0, "end_index": 3},
                {"type": "container_file_citation", "container_id": "cntr_1", "file_id": "cfile_1", "filename": "b.csv", "start_index": 4, "end_index": 8},
                {"type": "file_path", "file_id": "file-2", "index": 8},
            ],
        ),
        _said(
            "Hi",
            logprobs=[
                {"token": "Hi", "bytes": [72, 105], "logprob": -0.1, "top_logprobs": [{"token": "Hi", "bytes": [72, 105], "logprob": -0.1}]}
            ],
        ),
        id="msg_cited",
        status="completed",
    ),
]  # fmt: skip

TOOL_CALLS: list[dict[str, Any]] = [
    {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"z": "Paris", "a": 1.0}'},
    {"type": "function_call", "call_id": "call_2", "name": "clock", "arguments": ""},
    {
        "type": "function_call", "id": "fc_3", "call_id": "call_3", "name": "weather", "arguments": '{"cut": ',
        "status": "incomplete", "namespace": "meteo", "caller": PROGRAM, "async": True,
    },
    {"type": "function_call_output", "call_id": "call_1", "output": '{ "t": 12e0, "t": 12.0 }'},
    {"type": "function_call_output", "call_id": "call_2", "output": "", "status": "completed"},
    {
        "type": "function_call_output", "id": "fco_3", "call_id": "call_3", "status": "incomplete", "name": "weather", "namespace": "meteo", "caller": PROGRAM,
        "output": [
            _asked("as of now:"),
            {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "low"},
            {"type": "input_file", "file_id": "file-abc123", "filename": "log.txt"},
        ],
    },
    {"type": "function_call_output", "output": "of a call that nobody named"},
    {"type": "custom_tool_call", "call_id": "call_4", "name": "sql", "input": "SELECT 1;\n-- not JSON"},
    {"type": "custom_tool_call", "id": "ctc_5", "call_id": "call_5", "name": "sql", "input": "", "namespace": "db", "caller": DIRECT, "async": False},
    {"type": "custom_tool_call_output", "call_id": "call_4", "output": "1"},
    {"type": "custom_tool_call_output", "id": "ctco_5", "call_id": "call_5", "output": [_asked("none")], "caller": DIRECT},
]  # fmt: skip

THOUGHTS: list[dict[str, Any]] = [
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {
        "type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "**Thinking** of monads"}],
        "content": [{"type": "reasoning_text", "text": "A monad is"}], "encrypted_content": "gAAAAABo+/==", "status": "completed",
    },
    {"type": "reasoning", "id": "rs_3", "summary": [{"type": "summary_text", "text": ""}], "encrypted_content": None},
    {"type": "compaction", "encrypted_content": "gAAAAABp+/=="},
    {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAAABq+/=="},
    {"type": "program", "id": "prog_1", "call_id": "call_program_1", "code": "await tools.weather({z: `Paris`})", "fingerprint": "fp+/="},
    {"type": "program_output", "id": "progo_1", "call_id": "call_program_1", "result": '{"t":12}', "status": "completed"},
    {"type": "program_output", "id": "progo_2", "call_id": "call_program_1", "result": "", "status": "incomplete"},
    {"type": "configuration_update", "reasoning": {"effort": "high"}},
    {"type": "configuration_update", "id": "cu_conf", "text": {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}}},
]  # fmt: skip

SEARCHES: list[dict[str, Any]] = [
    {
        "type": "file_search_call", "id": "fs_1", "queries": ["monad", "burrito"], "status": "completed",
        "results": [{"file_id": "file-1", "filename": "a.txt", "score": 0.91, "text": "A monad", "attributes": {"year": 2026.0, "is_new": True, "by": "me"}}],
    },
    {"type": "file_search_call", "id": "fs_2", "queries": [], "status": "searching"},
    {"type": "file_search_call", "id": "fs_3", "queries": ["x"], "status": "failed", "results": None},
    {
        "type": "web_search_call", "id": "ws_1", "status": "completed",
        "action": {"type": "search", "query": "monad", "queries": ["monad"], "sources": [{"type": "url", "url": "https://example.com/"}]},
    },
    {"type": "web_search_call", "id": "ws_2", "status": "failed", "action": {"type": "open_page", "url": None}},
    {"type": "web_search_call", "id": "ws_3", "status": "searching", "action": {"type": "find_in_page", "url": "https://example.com/", "pattern": "burrito"}},
    {"type": "tool_search_call", "arguments": {"query": "weather", "limit": 1}},
    {"type": "tool_search_call", "id": "tsc_2", "call_id": "call_6", "execution": "client", "status": "in_progress", "arguments": ["z", {"z": 1, "a": None}, 2.5]},
    {"type": "tool_search_output", "tools": [WEATHER]},
    {
        "type": "tool_search_output", "id": "tso_2", "call_id": "call_6", "execution": "client", "status": "completed",
        "tools": [{"type": "namespace", "name": "meteo", "description": "Weather", "tools": [{"type": "function", "name": "wind", "parameters": SCHEMA}]}],
    },
    {"type": "additional_tools", "role": "developer", "tools": [WEATHER, {"type": "local_shell"}, {"type": "web_search", "search_context_size": "low"}]},
    {"type": "additional_tools", "id": "at_2", "role": "developer", "tools": []},
]  # fmt: skip

SCREENS: list[dict[str, Any]] = [
    {
        "type": "computer_call", "id": "cu_1", "call_id": "call_7", "status": "completed",
        "pending_safety_checks": [{"id": "sc_1", "code": "malicious_instructions", "message": "Look out."}, {"id": "sc_2", "code": None, "message": None}],
        "action": {"type": "click", "button": "left", "x": 10, "y": 20},
    },
    {
        "type": "computer_call", "id": "cu_2", "call_id": "call_8", "status": "in_progress", "pending_safety_checks": [],
        "actions": [
            {"type": "double_click", "x": 1, "y": 2, "keys": ["SHIFT"]},
            {"type": "drag", "path": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]},
            {"type": "keypress", "keys": ["CTRL", "c"]},
            {"type": "move", "x": 5, "y": 6},
            {"type": "screenshot"},
            {"type": "scroll", "x": 7, "y": 8, "scroll_x": 0, "scroll_y": -100},
            {"type": "type", "text": "hello\n"},
            {"type": "wait"},
        ],
    },
    {"type": "computer_call_output", "call_id": "call_7", "output": {"type": "computer_screenshot", "image_url": f"data:image/png;base64,{PIXEL}"}},
    {
        "type": "computer_call_output", "id": "cuo_2", "call_id": "call_8", "status": "completed", "output": {"type": "computer_screenshot", "file_id": "file-shot"},
        "acknowledged_safety_checks": [{"id": "sc_1", "code": "malicious_instructions", "message": None}],
    },
    {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": PIXEL},
    {
        "type": "image_generation_call", "id": "ig_2", "status": "failed", "result": None, "action": "edit", "background": "opaque", "output_format": "svg",
        "quality": "xhigh", "revised_prompt": "a burrito", "size": "1536x864",
        "error": {
            "code": "moderation_blocked", "message": "No.", "param": None, "type": "image_generation_error",
            "moderation_details": {"categories": ["food"], "moderation_stage": "input"},
        },
        "svg_usage": {"input_tokens": 1, "model": "svg-1", "output_tokens": 2, "reasoning_tokens": 0, "total_tokens": 3},
    },
]  # fmt: skip

SHELLS: list[dict[str, Any]] = [
    {
        "type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_1", "code": "print('\u03bb')\n", "status": "completed",
        "outputs": [{"type": "logs", "logs": "\u03bb\n"}, {"type": "image", "url": "https://example.com/plot.png"}],
    },
    {"type": "code_interpreter_call", "id": "ci_2", "container_id": "cntr_1", "code": None, "outputs": None, "status": "interpreting"},
    {
        "type": "local_shell_call", "id": "lsh_1", "call_id": "call_9", "status": "completed",
        "action": {"type": "exec", "command": ["ls", "-l"], "env": {"Z": "1", "A": ""}, "timeout_ms": 1000, "user": None, "working_directory": "/tmp"},
    },
    {"type": "local_shell_call_output", "id": "lsho_1", "output": '{"stdout": "total 0\\n"}'},
    {"type": "local_shell_call_output", "id": "lsho_2", "output": "", "status": "incomplete"},
    {"type": "shell_call", "call_id": "call_10", "action": {"commands": ["ls", "exit 3"]}},
    {
        "type": "shell_call", "id": "sh_2", "call_id": "call_11", "status": "in_progress", "caller": DIRECT, "environment": {"type": "local"},
        "action": {"commands": ["sleep 9"], "max_output_length": 1000, "timeout_ms": None},
    },
    {
        "type": "shell_call", "id": "sh_3", "call_id": "call_12", "status": "completed",
        "environment": {"type": "container_reference", "container_id": "cntr_1"}, "action": {"commands": []},
    },
    {
        "type": "shell_call_output", "call_id": "call_10",
        "output": [{"stdout": "a\n", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}, {"stdout": "", "stderr": "\x1b[31mno\x1b[0m", "outcome": {"type": "exit", "exit_code": 3}}],
    },
    {
        "type": "shell_call_output", "id": "sho_2", "call_id": "call_11", "status": "incomplete", "max_output_length": 1000, "caller": DIRECT,
        "output": [{"stdout": "", "stderr": "", "outcome": {"type": "timeout"}}],
    },
    {"type": "apply_patch_call", "call_id": "call_13", "status": "completed", "operation": {"type": "create_file", "path": "a.py", "diff": "+x = 1\n"}},
    {"type": "apply_patch_call", "id": "apc_2", "call_id": "call_14", "status": "in_progress", "operation": {"type": "update_file", "path": "a.py", "diff": "-x = 1\n+x = 2\n"}},
    {"type": "apply_patch_call", "call_id": "call_15", "status": "completed", "operation": {"type": "delete_file", "path": "a.py"}, "caller": PROGRAM},
    {"type": "apply_patch_call_output", "call_id": "call_13", "status": "completed"},
    {"type": "apply_patch_call_output", "id": "apco_2", "call_id": "call_14", "status": "failed", "output": "no such line", "caller": DIRECT},
]  # fmt: skip

MCP: list[dict[str, Any]] = [
    {
        "type": "mcp_list_tools", "id": "mcpl_1", "server_label": "deepwiki",
        "tools": [{"name": "ask", "input_schema": SCHEMA, "description": None, "annotations": {"readOnlyHint": True}}, {"name": "list", "input_schema": {}}],
    },
    {"type": "mcp_list_tools", "id": "mcpl_2", "server_label": "deepwiki", "tools": [], "error": "unreachable"},
    {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "deepwiki", "name": "ask", "arguments": '{ "q" : "?" }'},
    {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
    {"type": "mcp_approval_response", "id": "mcpa_2", "approval_request_id": "mcpr_1", "approve": False, "reason": "no"},
    {"type": "mcp_call", "id": "mcp_1", "server_label": "deepwiki", "name": "ask", "arguments": "{}"},
    {
        "type": "mcp_call", "id": "mcp_2", "server_label": "deepwiki", "name": "ask", "arguments": "{}", "approval_request_id": "mcpr_1",
        "output": "An answer.", "error": None, "status": "completed",
    },
    {
        "type": "mcp_call", "id": "mcp_3", "server_label": "deepwiki", "name": "ask", "arguments": "{}", "status": "failed",
        "error": {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": "no"}]},
    },
    {
        "type": "mcp_call", "id": "mcp_4", "server_label": "deepwiki", "name": "ask", "arguments": "{}", "status": "calling",
        "error": {"type": "http_error", "code": 502, "message": "Bad Gateway"},
    },
]  # fmt: skip


def examples() -> list[dict[str, Any]]:
    """All of them, for the caller to keep or change; no two have the same id."""
    groups = (EASY_MESSAGES, INPUT_MESSAGES, OUTPUT_MESSAGES, TOOL_CALLS, THOUGHTS, SEARCHES, SCREENS, SHELLS, MCP)
    return deepcopy([item for group in groups for item in group])
