{{- define "gvList" -}}
# API reference
{{- range $gv := . }}

## {{ $gv.GroupVersionString }}

{{ trim $gv.Doc }}

Written by `make generate` from the types in [{{ $gv.Version }}]({{ $gv.Version }}). A field changes there, with its comment and its validation; a
condition or a reason is named in [conditions.go]({{ $gv.Version }}/conditions.go).

Kinds:
{{- range $i, $kind := $gv.SortedKinds }}{{ if $i }},{{ end }} {{ $gv.TypeForKind $kind | markdownRenderTypeLink }}{{ end }}.
What each does, each of its states and what to do about it:
{{- range $i, $kind := $gv.SortedKinds }}{{ if $i }},{{ end }} [{{ lower $kind }}.md]({{ lower $kind }}.md){{ end }}.
{{- range $gv.SortedKinds }}{{ template "type" ($gv.TypeForKind .) }}{{ end }}
{{- range $gv.SortedTypes }}
{{- if not .GVK }}{{ template "type" . }}{{ end }}
{{- end }}
{{- end }}
{{ end }}

{{- define "type" }}
{{- if markdownShouldRenderType . }}

### {{ .Name }}

{{ trim .Doc }}
{{- if .References }}

In:
{{- range $i, $type := .SortedReferences }}{{ if $i }},{{ end }} {{ markdownRenderTypeLink $type }}{{ end }}
{{- end }}
{{- if .EnumValues }}
{{ range .EnumValues }}
- `{{ .Name }}` {{ regexReplaceAll "^[A-Z][A-Za-z]+ " (trim .Doc) "" }}
{{- end }}
{{- else if .Members }}

| Field | Type | What it is | Default | Rules |
| --- | --- | --- | --- | --- |
{{- range .Members }}
| `{{ .Name }}` | {{ markdownRenderType .Type }} | {{ template "doc" . }} | {{ with .Default }}`{{ . }}`{{ end }} | {{ template "rules" . }} |
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "doc" }}
{{- if eq .Name "metadata" }}the object's standard metadata
{{- else }}{{ trim .Doc | replace "\n" " " | markdownRenderFieldDoc }}
{{- end }}
{{- end }}

{{- /* The type's own section lists its enum, and a CEL rule speaks through its message. */ -}}
{{- define "rules" }}
{{- if has "Required: {}" .Validation }}required{{ else }}optional{{ end }}
{{- range .Validation }}
{{- if hasPrefix "Maximum: " . }}; Maximum: {{ trimPrefix "Maximum: " . | float64 | int64 }}
{{- else if not (regexMatch "^(Required|Optional|Enum|(items:)?XValidation): " .) }}; {{ replace "|" "\\|" . }}
{{- end }}
{{- end }}
{{- end }}
