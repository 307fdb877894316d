"""The service's published OpenAPI document, written from its facts in the shape that FastAPI gives it."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
UUID: Schema = {"type": "string", "format": "uuid"}
DATE: Schema = {"type": "string", "format": "date-time"}
NULL: Schema = {"type": "null"}
END_REASONS = [
    "UNKNOWN",
    "USER_DISCONNECTED",
    "SERVER_ERROR",
    "IDLE_TIMEOUT",
    "NO_CREDITS",
    "USER_CLOSED",
    "AVATAR_DELETED",
    "MAX_DURATION_REACHED",
    "ZOMBIE_SESSION_REAP",
    "AGENT_HANG_UP",
]
OPENAI_VOICES = [
    "alloy",
    "ash",
    "ballad",
    "cedar",
    "coral",
    "echo",
    "fable",
    "marin",
    "nova",
    "onyx",
    "sage",
    "shimmer",
    "verse",
]
GEMINI_VOICES = ["Puck", *(f"Voice{number}" for number in range(29))]
GEMINI_MODELS = ["gemini-3.1-flash-live-preview", "gemini-live-2.5-flash"]


def ref(name: str) -> Schema:
    """Return a reference to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def maybe(schema: Schema) -> Schema:
    """Return a schema that also allows null."""
    return {"anyOf": [schema, NULL]}


def model(name: str, /, *required: str, **fields: Schema) -> Schema:
    """Return a Pydantic model, with the titles that FastAPI adds."""
    properties = {field: {"title": field.replace("_", " ").title(), **schema} for field, schema in fields.items()}
    return {"type": "object", "title": name, "properties": properties} | (
        {"required": [*required]} if required else {}
    )


def within(low: float, high: float, default: float) -> Schema:
    """Return a number with limits and a default."""
    return {**NUMBER, "minimum": low, "maximum": high, "default": default}


def envelope(name: str, data: Schema) -> Schema:
    """Return the model around the data of a response."""
    return model(f"Response[{name}]", code={**WHOLE, "default": 100}, data=maybe(data), message=TEXT)


def operation(response: str, *security: str, status: str = "200", **more: Any) -> Schema:
    """Return an operation with its response of success and the framework's 422."""
    responses = {
        status: {"description": "Successful Response", "content": {"application/json": {"schema": ref(response)}}},
        "422": {
            "description": "Validation Error",
            "content": {"application/json": {"schema": ref("HTTPValidationError")}},
        },
    }
    return {"responses": responses, "security": [{name: []} for name in security], **more}


def body(schema: Schema, *, required: bool = False) -> Schema:
    """Return a request body."""
    return {"content": {"application/json": {"schema": schema}}} | ({"required": True} if required else {})


def query(name: str, schema: Schema, *, required: bool = False) -> Schema:
    """Return a query parameter."""
    return {"name": name, "in": "query", "required": required, "schema": {"title": name, **schema}}


def published() -> dict[str, Any]:
    """Return a new document."""
    session_id = {"name": "session_id", "in": "path", "required": True, "schema": {"title": "Session Id", **TEXT}}
    cookie = {"name": "la_session", "in": "cookie", "required": False, "schema": {"title": "La Session", **TEXT}}
    token_body = {"oneOf": [ref("FullConfig"), ref("LiteConfig")], "title": "Payload"}
    stop_body = {**ref("StopSession"), "default": {"reason": "USER_CLOSED"}}
    keep_alive_body = {**ref("KeepAlive"), "default": {}}
    sessions = "/v1/sessions"
    return {
        "openapi": "3.1.0",
        "info": {"title": "Live avatar API", "version": "0.1.0"},
        "servers": [{"url": "https://api.liveavatar.com"}],
        "paths": {
            f"{sessions}/token": {
                "post": operation("Token", "Key", "Bearer", requestBody=body(token_body, required=True))
            },
            f"{sessions}/start": {"post": operation("Start", "Bearer", status="201")},
            f"{sessions}/stop": {"post": operation("Any", "Key", "Bearer", requestBody=body(stop_body))},
            f"{sessions}/keep-alive": {"post": operation("Any", "Key", "Bearer", requestBody=body(keep_alive_body))},
            sessions: {
                "get": operation(
                    "List",
                    "Key",
                    parameters=[
                        query("type", {**TEXT, "enum": ["active", "historic"]}, required=True),
                        query("page", {**WHOLE, "minimum": 1, "default": 1}),
                        query("page_size", {**WHOLE, "minimum": 1, "maximum": 100, "default": 20}),
                        *(query(name, TEXT) for name in ("avatar_id", "embed_id", "context_id")),
                    ],
                )
            },
            f"{sessions}/{{session_id}}": {"get": operation("Info", "Key", parameters=[session_id, cookie])},
            f"{sessions}/{{session_id}}/transcript": {
                "get": operation(
                    "Transcript",
                    "Key",
                    parameters=[session_id, query("start_timestamp", WHOLE), query("end_timestamp", WHOLE)],
                )
            },
            f"{sessions}/{{session_id}}/events": {"delete": operation("Any", "Key", parameters=[session_id])},
            "/v1/avatars/public": {"get": operation("Any", "Key")},
        },
        "components": {
            "securitySchemes": {
                "Key": {"type": "apiKey", "in": "header", "name": "X-API-KEY"},
                "Bearer": {"type": "http", "scheme": "bearer"},
            },
            "schemas": schemas(),
        },
    }


def schemas() -> dict[str, Schema]:
    """Return the models that the operations refer to."""
    shared: dict[str, Schema] = {
        "avatar_id": UUID,
        "is_sandbox": {**FLAG, "default": False},
        "video_settings": {**maybe(ref("VideoSettings")), "description": "Video encoding settings"},
        "max_session_duration": WHOLE,
    }
    entry: dict[str, Schema] = {
        "id": UUID,
        "created_at": DATE,
        "updated_at": DATE,
        "duration": WHOLE,
        "source": {**TEXT, "enum": ["DEMO", "APP", "API", "EMBED"]},
        "mode": {**TEXT, "enum": ["FULL", "LITE"]},
        "is_sandbox": FLAG,
        "credits_consumed": NUMBER,
    }
    mapping = {"elevenLabs": ref("ElevenLabs"), "fish": ref("Fish")}
    voices = {"oneOf": [*mapping.values()], "discriminator": {"propertyName": "provider", "mapping": mapping}}
    room = dict.fromkeys(("livekit_url", "livekit_room", "livekit_client_token"), TEXT)
    agora = dict.fromkeys(("agora_app_id", "agora_token", "agora_channel", "agora_uid"), TEXT)
    line = {"role": {**TEXT, "enum": ["user", "avatar"]}, "transcript": TEXT}
    line |= {"absolute_timestamp": WHOLE, "relative_timestamp": WHOLE}
    scalars = {"type": "object", "additionalProperties": {"anyOf": [TEXT, WHOLE, NUMBER, FLAG]}}
    return {
        "FullConfig": model(
            "Full Mode",
            "avatar_id",
            "avatar_persona",
            mode={**TEXT, "const": "FULL", "default": "FULL"},
            **shared,
            avatar_persona=ref("Persona"),
            interactivity_type={**ref("Interactivity"), "default": "CONVERSATIONAL"},
            llm_configuration_id=UUID,
            dynamic_variables={"type": "object", "additionalProperties": TEXT},
            memory=maybe(ref("Memory")),
        ),
        "LiteConfig": model(
            "Lite Mode",
            "avatar_id",
            mode={**TEXT, "const": "LITE", "default": "LITE"},
            **shared,
            livekit_config=maybe(ref("Room")),
            agora_config=maybe(ref("Agora")),
            elevenlabs_agent_config=maybe(ref("ElevenLabsAgent")),
            openai_realtime_config=maybe(ref("OpenAIRealtime")),
            gemini_realtime_config=maybe(ref("GeminiRealtime")),
        ),
        "VideoSettings": model(
            "VideoSettings",
            quality={**TEXT, "enum": ["very_high", "high", "medium", "low"], "default": "high"},
            encoding={**TEXT, "enum": ["VP8", "H264"], "default": "H264"},
        ),
        "Persona": model(
            "AvatarPersona",
            voice_id=UUID,
            context_id=UUID,
            language={**TEXT, "default": "en"},
            voice_settings=maybe(voices),
            stt_config=maybe(ref("SpeechToText")),
        ),
        "ElevenLabs": model(
            "ElevenLabsVoiceSettings",
            provider={**TEXT, "const": "elevenLabs", "default": "elevenLabs"},
            speed=within(0.8, 1.2, 1),
            stability=within(0, 1, 0.75),
            similarity_boost=within(0, 1, 0.75),
            style=within(0, 1, 0),
            use_speaker_boost={**FLAG, "default": True},
            model={**TEXT, "enum": ["eleven_flash_v2_5", "eleven_multilingual_v2"], "default": "eleven_flash_v2_5"},
            apply_language_text_normalization={**FLAG, "default": False},
        ),
        "Fish": model(
            "FishAudioVoiceSettings",
            provider={**TEXT, "const": "fish", "default": "fish"},
            speed=within(0.8, 1.2, 1),
            model={**TEXT, "enum": ["s1", "s2"], "default": "s2"},
            latency_mode={**TEXT, "enum": ["normal", "balanced"], "default": "balanced"},
        ),
        "SpeechToText": model(
            "STTConfig", provider={**TEXT, "enum": ["deepgram", "assembly_ai", "gladia", "elevenlabs"]}
        ),
        "Interactivity": {**TEXT, "enum": ["CONVERSATIONAL", "PUSH_TO_TALK"]},
        "Memory": model("MemoryRef", prev_session_id=UUID, session_memory_id=UUID),
        "Room": model("LiveKitConfig", *room, **room),
        "Agora": model("AgoraConfig", *agora, **agora),
        "ElevenLabsAgent": model(
            "ElevenLabsAgentConfig",
            "secret_id",
            "agent_id",
            secret_id=UUID,
            agent_id=TEXT,
            voice_id=TEXT,
            dynamic_variables=scalars,
        ),
        "OpenAIRealtime": model(
            "OpenAIRealtimeConfig",
            "secret_id",
            secret_id=UUID,
            context_id=UUID,
            voice={**TEXT, "enum": OPENAI_VOICES, "default": "alloy"},
            temperature=within(0.6, 1.2, 0.8),
            model={**TEXT, "default": "gpt-realtime"},
        ),
        "GeminiRealtime": model(
            "GeminiRealtimeConfig",
            "secret_id",
            secret_id=UUID,
            context_id=UUID,
            voice={**TEXT, "enum": GEMINI_VOICES, "default": "Puck"},
            temperature=within(0, 2, 0.8),
            model={**TEXT, "enum": GEMINI_MODELS, "default": GEMINI_MODELS[0]},
        ),
        "StopSession": model(
            "StopSession", session_id=UUID, reason={**TEXT, "enum": END_REASONS, "default": "UNKNOWN"}
        ),
        "KeepAlive": model("KeepAliveSession", session_id=UUID),
        "Token": envelope("SessionToken", ref("TokenData")),
        "TokenData": model("SessionToken", "session_id", "session_token", session_id=UUID, session_token=TEXT),
        "Start": envelope("StartedSession", ref("StartData")),
        "StartData": model(
            "StartedSession",
            "session_id",
            "livekit_url",
            "livekit_client_token",
            **dict.fromkeys(("session_id", "livekit_url", "livekit_client_token", "livekit_agent_token"), TEXT),
            max_session_duration=WHOLE,
            ws_url=TEXT,
        ),
        "Any": model("Response", code={**WHOLE, "default": 100}, data={}, message=TEXT),
        "List": envelope("Page", ref("Page")),
        "Page": model(
            "Page",
            "count",
            "results",
            count=WHOLE,
            next=TEXT,
            previous=TEXT,
            results={"type": "array", "items": {"anyOf": [ref("Active"), ref("Historic")]}},
        ),
        "Info": envelope("Session", {"anyOf": [ref("Active"), ref("Historic")]}),
        "Active": model("ActiveSession", *entry, **entry),
        "Historic": model(
            "HistoricSession", *entry, **entry, end_at=DATE, end_reason=maybe({**TEXT, "enum": END_REASONS})
        ),
        "Transcript": envelope("Transcript", ref("TranscriptData")),
        "TranscriptData": model(
            "Transcript",
            "session_active",
            "transcript_data",
            session_active=FLAG,
            transcript_data={"type": "array", "items": ref("Line")},
            next_timestamp=WHOLE,
        ),
        "Line": model("TranscriptLine", *line, **line),
        "HTTPValidationError": model("HTTPValidationError", detail={"type": "array", "items": ref("ValidationError")}),
        "ValidationError": model(
            "ValidationError",
            "loc",
            "msg",
            "type",
            loc={"type": "array", "items": {"anyOf": [TEXT, WHOLE]}},
            msg=TEXT,
            type=TEXT,
            input={},
            ctx={"type": "object"},
        ),
    }
