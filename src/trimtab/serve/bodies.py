"""Bodies of requests, as OpenAI's API defines them: names, types and ranges, checked by msgspec. What a field means is checked in `schema`.

Unknown fields are refused, so that nothing that a client asks for is passed over. Beside OpenAI's own fields, those are known that
engines' servers add (`Extensions`); whether they can be honoured is for the replica to say.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

MAX_CHOICES = 16
MAX_TOKEN_ID = 2**31
Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
StopText = Annotated[str, Meta(min_length=1)]
Stop = StopText | Annotated[list[StopText], Meta(max_length=16)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
FunctionName = Annotated[str, Meta(pattern="^[a-zA-Z0-9_.-]{1,64}$")]
Metadata = Annotated[dict[str, str], Meta(max_length=16)]
TokenId = Annotated[int, Meta(ge=0, lt=MAX_TOKEN_ID)]


class Body(Struct, forbid_unknown_fields=True, kw_only=True):
    """A part of a request without unknown fields."""


# Parts of messages


class TextPart(Body, tag_field="type", tag="text"):
    text: str
    prompt_cache_breakpoint: Any = None


class RefusalPart(Body, tag_field="type", tag="refusal"):
    refusal: str


class ImagePart(Body, tag_field="type", tag="image_url"):
    image_url: Any
    prompt_cache_breakpoint: Any = None


class AudioPart(Body, tag_field="type", tag="input_audio"):
    input_audio: Any
    prompt_cache_breakpoint: Any = None


class FilePart(Body, tag_field="type", tag="file"):
    file: Any
    prompt_cache_breakpoint: Any = None


Text = str | list[TextPart]
UserContent = str | Annotated[list[TextPart | ImagePart | AudioPart | FilePart], Meta(min_length=1)]


class CalledFunction(Body):
    name: str
    arguments: str


class ToolCall(Body):
    id: str
    function: CalledFunction
    type: Literal["function"] = "function"
    index: int | None = None


class SystemMessage(Body, tag_field="role", tag="system"):
    content: Text
    name: Name | None = None


class DeveloperMessage(Body, tag_field="role", tag="developer"):
    content: Text
    name: Name | None = None


class UserMessage(Body, tag_field="role", tag="user"):
    content: UserContent
    name: Name | None = None


class AssistantMessage(Body, tag_field="role", tag="assistant"):
    """An answer given back as it came: the fields that answers have and requests need not are taken too."""

    content: str | list[TextPart | RefusalPart] | None = None
    refusal: str | None = None
    name: Name | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class ToolMessage(Body, tag_field="role", tag="tool"):
    content: Text
    tool_call_id: str
    name: Name | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage

# Tools and forms of answers


class Function(Body):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Body):
    name: FunctionName
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


# Whole bodies


class Sampled(Body, kw_only=True):
    """What chat and plain completions share, with OpenAI's fields first and those of engines' servers after them."""

    model: Name
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Positive | None = None
    n: Choices | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    user: str | None = None
    # Extensions
    top_k: int | None = None
    min_p: Share | None = None
    typical_p: Share | None = None
    repetition_penalty: float | None = None
    length_penalty: float | None = None
    min_tokens: Natural | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[TokenId] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None
    cache_prompt: bool | None = None
    cache_salt: str | None = None
    priority: int | None = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    grammar: str | None = None


class Chat(Sampled, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    audio: Any = None
    functions: Any = None
    function_call: Any = None
    prediction: Any = None
    store: bool | None = None
    metadata: Metadata | None = None
    moderation: Any = None
    web_search_options: Any = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None
    # Extensions
    chat_template_kwargs: dict[str, Any] | None = None
    chat_template: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    documents: Any = None
    include_reasoning: bool | None = None


class Completion(Sampled, kw_only=True):
    # msgspec takes one list type in a union, so what the list holds is checked in `schema`.
    prompt: str | Annotated[list[Any], Meta(min_length=1)]
    best_of: Choices | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    suffix: str | None = None
    # Extensions
    response_format: ResponseFormat | None = None


class Embedding(Body, kw_only=True):
    model: Name
    input: str | Annotated[list[Any], Meta(min_length=1)]
    dimensions: Positive | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    # Extensions
    truncate_prompt_tokens: int | None = None
    add_special_tokens: bool | None = None
    priority: int | None = None
