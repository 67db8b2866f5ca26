// Runs cells by JShell in this process, as the kernel sends them: one line of JSON in for each cell, lines of JSON out
// for what it does. Started as `java Driver.java <descriptor to read> <descriptor to write>`.

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import jdk.jshell.DeclarationSnippet;
import jdk.jshell.Diag;
import jdk.jshell.EvalException;
import jdk.jshell.JShell;
import jdk.jshell.JShellException;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;
import jdk.jshell.SourceCodeAnalysis;
import jdk.jshell.SourceCodeAnalysis.Completeness;
import jdk.jshell.SourceCodeAnalysis.CompletionInfo;
import jdk.jshell.UnresolvedReferenceException;
import sun.misc.Signal;

public final class Driver {
    private static final Pattern REQUEST =
            Pattern.compile("\\{\"code\": \"((?:[^\"\\\\]|\\\\.)*)\", \"number\": (\\d+)\\}");
    private static final Pattern ESCAPE = Pattern.compile("\\\\(?:u([0-9a-f]{4})|(.))");
    // What cells may use by its simple name, as in the jshell command.
    private static final List<String> IMPORTED = List.of(
            "java.io", "java.math", "java.net", "java.nio.file", "java.util", "java.util.concurrent",
            "java.util.function", "java.util.prefs", "java.util.regex", "java.util.stream");

    private final JShell shell;
    private final OutputStream events;
    private volatile boolean isRunning;
    private volatile boolean isInterrupted;

    private Driver(OutputStream events) {
        this.events = events;
        // In this process: a second one would cost its memory, and the kernel would not see it end.
        this.shell = JShell.builder().executionEngine("local").build();
        IMPORTED.forEach(name -> shell.eval("import " + name + ".*;"));
    }

    public static void main(String[] arguments) throws IOException {
        OutputStream events = new FileOutputStream("/proc/self/fd/" + arguments[1]);
        InputStream requests = new FileInputStream("/proc/self/fd/" + arguments[0]);
        Driver driver = new Driver(events);
        System.setIn(InputStream.nullInputStream());
        System.setOut(driver.stream("stdout"));
        System.setErr(driver.stream("stderr"));
        Signal.handle(new Signal("INT"), signal -> driver.interrupt());
        driver.serve(new BufferedReader(new InputStreamReader(requests, StandardCharsets.UTF_8)));
        System.exit(0);
    }

    private void serve(BufferedReader requests) throws IOException {
        for (String line; (line = requests.readLine()) != null; ) {
            Matcher request = REQUEST.matcher(line);
            if (!request.matches()) throw new IOException("not a request: " + line);
            isInterrupted = false;
            isRunning = true;
            try {
                run(unescaped(request.group(1)));
            } catch (Throwable defect) { // of JShell, as in cells that its compiler cannot take
                error(defect.getClass().getSimpleName(), String.valueOf(defect.getMessage()), List.of(defect.toString()));
            } finally {
                isRunning = false;
            }
            send(Map.of("type", "done"));
        }
    }

    private void interrupt() {
        if (!isRunning) return;
        isInterrupted = true;
        shell.stop();
    }

    /** Evaluates the snippets of a cell, one after the other up to the first that fails, and shows what the last one gives. */
    private void run(String code) throws IOException {
        String rest = code;
        SnippetEvent last = null;
        while (!rest.isBlank()) {
            CompletionInfo next = shell.sourceCodeAnalysis().analyzeCompletion(rest);
            if (next.completeness() == Completeness.EMPTY) break;
            boolean isWhole = next.completeness().isComplete();
            for (SnippetEvent event : shell.eval(isWhole ? next.source() : rest)) {
                if (event.causeSnippet() != null) continue; // an earlier snippet, made anew because of this one
                if (isInterrupted) {
                    error("KeyboardInterrupt", "Interrupted", List.of("KeyboardInterrupt: Interrupted"));
                    return;
                }
                if (event.exception() != null) {
                    report(event.exception());
                    return;
                }
                if (event.status() == Snippet.Status.REJECTED) {
                    reportRejected(event.snippet());
                    return;
                }
                last = event;
            }
            rest = isWhole ? next.remaining() : "";
        }
        if (last != null && isExpression(last.snippet()) && last.value() != null && !last.value().equals("null")) {
            send(Map.of("type", "result", "data", Map.of("text/plain", shown(last.value()))));
        }
    }

    /** JShell shows a string as a literal; here the text of a value is to be read by programs, in quotes but as it is. */
    private static String shown(String value) {
        if (!value.startsWith("\"")) return value;
        try {
            return value.translateEscapes();
        } catch (IllegalArgumentException notALiteral) {
            return value;
        }
    }

    private static boolean isExpression(Snippet snippet) {
        return snippet.kind() == Snippet.Kind.EXPRESSION
                || snippet.subKind() == Snippet.SubKind.TEMP_VAR_EXPRESSION_SUBKIND;
    }

    private void report(JShellException exception) throws IOException {
        if (exception instanceof EvalException thrown) {
            String name = thrown.getExceptionClassName();
            List<String> lines = new ArrayList<>();
            lines.add(thrown.getMessage() == null ? name : name + ": " + thrown.getMessage());
            for (StackTraceElement frame : thrown.getStackTrace()) {
                // The statements of a cell are in no method, and its methods in no class.
                String place = Stream.of(frame.getClassName(), frame.getMethodName())
                        .filter(each -> !each.isEmpty())
                        .collect(Collectors.joining("."));
                lines.add("\tat " + (place.isEmpty() ? "cell" : place) + "(" + frame.getFileName() + ":" + frame.getLineNumber() + ")");
            }
            error(name.substring(name.lastIndexOf('.') + 1), String.valueOf(thrown.getMessage()), lines);
        } else if (exception instanceof UnresolvedReferenceException missing) {
            DeclarationSnippet snippet = missing.getSnippet();
            String names = shell.unresolvedDependencies(snippet).collect(Collectors.joining(", "));
            error("UnresolvedReferenceException", names + " is not declared yet", List.of(snippet.source()));
        }
    }

    private void reportRejected(Snippet snippet) throws IOException {
        List<String> messages = new ArrayList<>();
        List<String> lines = new ArrayList<>();
        for (Diag problem : shell.diagnostics(snippet).toList()) {
            if (!problem.isError()) continue;
            messages.add(problem.getMessage(null));
            lines.add("error: " + problem.getMessage(null));
            lines.addAll(marked(snippet.source(), (int) problem.getPosition()));
        }
        error("CompilationException", String.join("\n", messages), lines);
    }

    /** The line of the source with the position, and a mark below it. */
    private static List<String> marked(String source, int position) {
        int place = Math.max(0, Math.min(position, source.length()));
        int start = source.lastIndexOf('\n', place - 1) + 1;
        int end = source.indexOf('\n', place);
        return List.of(source.substring(start, end < 0 ? source.length() : end), " ".repeat(place - start) + "^");
    }

    private void error(String name, String value, List<String> traceback) throws IOException {
        send(Map.of("type", "error", "ename", name, "evalue", value, "traceback", traceback));
    }

    private PrintStream stream(String name) {
        OutputStream pieces = new OutputStream() {
            @Override
            public void write(int single) throws IOException {
                write(new byte[] {(byte) single}, 0, 1);
            }

            @Override
            public void write(byte[] bytes, int offset, int length) throws IOException {
                if (length == 0) return;
                String text = new String(bytes, offset, length, StandardCharsets.UTF_8);
                send(Map.of("type", "stream", "name", name, "text", text));
            }
        };
        // A class of its own: println then writes the line and its end one after the other, which clients of Java's
        // kernels before this one know.
        return new PrintStream(pieces, true, StandardCharsets.UTF_8) {};
    }

    private synchronized void send(Map<String, ?> event) throws IOException {
        events.write((json(event) + "\n").getBytes(StandardCharsets.UTF_8));
    }

    private static String json(Object value) {
        if (value instanceof Map<?, ?> map) {
            return map.entrySet().stream()
                    .map(entry -> json(entry.getKey()) + ":" + json(entry.getValue()))
                    .collect(Collectors.joining(",", "{", "}"));
        }
        if (value instanceof List<?> list) {
            return list.stream().map(Driver::json).collect(Collectors.joining(",", "[", "]"));
        }
        return ((String) value).chars().mapToObj(Driver::escaped).collect(Collectors.joining("", "\"", "\""));
    }

    private static String escaped(int character) {
        if (character == '"' || character == '\\') return "\\" + (char) character;
        // A lone surrogate has no UTF-8.
        boolean isPlain = character >= 0x20 && !Character.isSurrogate((char) character);
        return isPlain ? String.valueOf((char) character) : String.format("\\u%04x", character);
    }

    private static String unescaped(String text) {
        return ESCAPE.matcher(text).replaceAll(match -> {
            String code = match.group(1);
            String character = code == null
                    ? ("\\" + match.group(2)).replace("\\/", "/").translateEscapes()
                    : String.valueOf((char) Integer.parseInt(code, 16));
            return Matcher.quoteReplacement(character);
        });
    }
}
